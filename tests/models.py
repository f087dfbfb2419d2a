"""Models of the tests: one for each thing a buffered model can have."""

from __future__ import annotations

import enum
import time
import uuid
from typing import Any, ClassVar

from django.db import models
from django.db.models.functions import Now
from django.utils import timezone

from writebehind_app import BufferedManager, LogBuffer, MetaBuffer, RowBuffer


class Color(models.TextChoices):
    RED = "red"
    BLUE = "blue"


class Level(models.IntegerChoices):
    LOW = 1
    HIGH = 2


class Point:
    """A value of a field of one's own."""

    def __init__(self, x: int, y: int) -> None:
        self.x, self.y = x, y

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and (self.x, self.y) == (other.x, other.y)

    def __hash__(self) -> int:
        return hash((self.x, self.y))

    def __repr__(self) -> str:
        return f"Point({self.x}, {self.y})"


class PointField(models.CharField):
    """Follows Django's rules for a field of one's own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "max_length": 50})

    def from_db_value(self, value: str | None, expression: Any, connection: Any) -> Point | None:
        return None if value is None else self.to_python(value)

    def to_python(self, value: Any) -> Point | None:
        if value is None or isinstance(value, Point):
            return value
        x, y = value.split("|")
        return Point(int(x), int(y))

    def get_prep_value(self, value: Any) -> str | None:
        return None if value is None else f"{value.x}|{value.y}"


class Tier(enum.Enum):
    FREE = "free"
    PAID = "paid"


class TierField(models.CharField):
    """An enum that is no string."""

    def from_db_value(self, value: str | None, expression: Any, connection: Any) -> Tier | None:
        return None if value is None else Tier(value)

    def to_python(self, value: Any) -> Tier | None:
        return value if value is None or isinstance(value, Tier) else Tier(value)

    def get_prep_value(self, value: Any) -> str | None:
        return None if value is None else self.to_python(value).value


class Owner(models.Model):
    name = models.CharField(max_length=50, unique=True)


class Item(models.Model):
    """Six plain fields, and one without which a row cannot be inserted."""

    number = models.BigIntegerField(unique=True)
    a = models.IntegerField(default=0)
    b = models.CharField(max_length=100, default="")
    c = models.CharField(max_length=100, null=True)
    d = models.FloatField(default=0.5)
    e = models.BooleanField(default=False)
    f = models.DecimalField(max_digits=12, decimal_places=2, default=0)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    buffered = RowBuffer(key="number")


class Everything(models.Model):
    """A field of every type."""

    key = models.UUIDField(unique=True, default=uuid.uuid4)
    small = models.SmallIntegerField(null=True)
    integer = models.IntegerField(null=True)
    big = models.BigIntegerField(null=True)
    positive_small = models.PositiveSmallIntegerField(null=True)
    positive = models.PositiveIntegerField(null=True)
    positive_big = models.PositiveBigIntegerField(null=True)
    char = models.CharField(max_length=40, null=True)
    text = models.TextField(null=True)
    email = models.EmailField(null=True)
    slug = models.SlugField(null=True)
    url = models.URLField(null=True)
    boolean = models.BooleanField(null=True)
    date = models.DateField(null=True)
    datetime = models.DateTimeField(null=True)
    time = models.TimeField(null=True)
    duration = models.DurationField(null=True)
    decimal = models.DecimalField(max_digits=20, decimal_places=6, null=True)
    float = models.FloatField(null=True)
    uuid = models.UUIDField(null=True)
    json = models.JSONField(null=True)
    binary = models.BinaryField(null=True)
    ip = models.GenericIPAddressField(null=True)
    owner = models.ForeignKey(Owner, models.CASCADE, null=True)
    color = models.CharField(max_length=10, choices=Color, null=True)
    level = models.IntegerField(choices=Level, null=True)
    file = models.FileField(null=True, max_length=200)
    path = models.FilePathField(null=True, max_length=200)
    point = PointField(null=True)
    tier = TierField(max_length=10, null=True)

    buffered = RowBuffer(key="key")


class Tally(models.Model):
    """MariaDB has unsigned columns for it: the primary key and what refers to it."""

    id = models.PositiveBigIntegerField(primary_key=True)
    above = models.ForeignKey("self", models.CASCADE, null=True)
    count = models.PositiveIntegerField(default=7)
    note = models.CharField(max_length=20, default="")

    buffered = RowBuffer(key="id")


class Pair(models.Model):
    """A key of two fields, one of them a foreign key."""

    owner = models.ForeignKey(Owner, models.CASCADE)
    name = models.CharField(max_length=100)
    value = models.IntegerField(default=0)
    note = models.CharField(max_length=100, unique=True, null=True)

    buffered = RowBuffer(key=("owner", "name"))

    class Meta:
        constraints = [models.UniqueConstraint(fields=["owner", "name"], name="pair_key")]


class Child(models.Model):
    """Goes with the pair it belongs to."""

    pair = models.ForeignKey(Pair, models.CASCADE)


class Stamp(models.Model):
    """Written by primary key: a row that is not there is not made."""

    seen = models.DateTimeField(null=True)
    count = models.IntegerField(default=0)

    buffered = RowBuffer(key="pk", fields=["seen", "count"])


class Strict(models.Model):
    """Cannot be inserted without `required`, and carries fields that set themselves."""

    code = models.CharField(max_length=20, unique=True)
    required = models.CharField(max_length=20)
    other = models.IntegerField(default=7)
    day = models.DateField(auto_now_add=True)
    clock = models.TimeField(auto_now=True)
    begun_at = models.DateTimeField(default=timezone.now)

    buffered = RowBuffer(key="code")


class Counter(models.Model):
    """What operations can change."""

    name = models.CharField(max_length=20, unique=True)
    small = models.IntegerField(default=0)
    big = models.BigIntegerField(null=True)
    decimal = models.DecimalField(max_digits=40, decimal_places=2, null=True)
    real = models.FloatField(null=True)
    at = models.DateTimeField(null=True)
    span = models.DurationField(null=True)
    extra = models.JSONField(null=True)

    buffered = RowBuffer(key="name")


class Preset(models.Model):
    """Has defaults that the database knows. It computes one of them."""

    name = models.CharField(max_length=20, unique=True)
    count = models.IntegerField(db_default=3)
    extra = models.JSONField(db_default=models.Value({"a": 1}, models.JSONField()))
    at = models.DateTimeField(db_default=Now())
    day = models.DateField(db_default="2020-01-01")

    buffered = RowBuffer(key="name")


class Score(models.Model):
    """Declares the buffer of its children."""

    code = models.CharField(max_length=20, unique=True)
    points = models.IntegerField(default=0)

    buffered = RowBuffer(key="code")

    class Meta:
        abstract = True


class ExamScore(Score):
    pass


class GameScore(Score):
    pass


class KeyOnly(models.Model):
    """Has nothing but its key."""

    name = models.CharField(max_length=20, unique=True)

    buffered = RowBuffer(key="name")


class VisibleRows(models.Manager):
    def get_queryset(self) -> models.QuerySet[Any]:
        return super().get_queryset().filter(hidden=False)


class Hidden(models.Model):
    """Hides rows from all its managers."""

    name = models.CharField(max_length=20, unique=True)
    value = models.IntegerField(default=0)
    hidden = models.BooleanField(default=False)

    objects = VisibleRows()
    buffered = RowBuffer(key="name")

    class Meta:
        base_manager_name = "objects"


class Note(models.Model):
    """Free metadata of a page and an owner."""

    page = models.CharField(max_length=20)
    owner = models.ForeignKey(Owner, models.CASCADE)
    key = models.CharField(max_length=40)
    value = models.JSONField(null=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    buffered = MetaBuffer(entity=("page", "owner"), name="key", value="value")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["page", "owner", "key"], name="note_key")]


class Setting(models.Model):
    """Metadata whose values are whole numbers, without times."""

    site = models.IntegerField()
    key = models.CharField(max_length=40)
    value = models.BigIntegerField(default=5)

    buffered = MetaBuffer(entity="site", name="key", value="value")

    class Meta:
        unique_together = [("site", "key")]


def say_when() -> dict[str, int]:
    """A default that is another one each time."""
    return {"ns": time.time_ns()}


class Visit(models.Model):
    """A record that is unique by two fields, and has defaults of each kind."""

    event = models.BigIntegerField()
    email = models.CharField(max_length=100)
    owner = models.ForeignKey(Owner, models.CASCADE, null=True)
    details = models.JSONField(default=dict)
    token = models.UUIDField(default=uuid.uuid4)
    hint = models.JSONField(default=say_when)
    note = models.CharField(max_length=1000, default="none")
    registered_at = models.DateTimeField(default=timezone.now)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    buffered = LogBuffer(time="registered_at", unique=("event", "email"), shards=3)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["event", "email"], name="visit_key")]


class Tick(models.Model):
    """A record of which there may be any number, with a primary key of its own."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    at = models.DateTimeField(db_index=True)
    value = models.IntegerField()

    buffered = LogBuffer(time="at")


class Line(models.Model):
    """A record whose order can be seen by its primary key."""

    at = models.DateTimeField(auto_now_add=True)
    text = models.CharField(max_length=100, default="")

    buffered = LogBuffer(time="at")


class Seat(models.Model):
    """A record that is unique by one field, and in the order of its primary key."""

    number = models.IntegerField(unique=True)
    at = models.DateTimeField()

    buffered = LogBuffer(time="at", unique="number")


class Venue(models.Model):
    """Has rows that others refer to by the key of its buffer."""

    slug = models.SlugField(primary_key=True)
    name = models.CharField(max_length=20, default="")

    buffered = RowBuffer(key="slug")


class Place(models.Model):
    """Refers to a row of another buffer."""

    number = models.IntegerField(unique=True)
    venue = models.ForeignKey(Venue, models.CASCADE)

    buffered = RowBuffer(key="number")


class Counted(models.IntegerField):
    """Counts how often its row was saved with it."""

    def pre_save(self, row: models.Model, add: bool) -> int:
        value: int = getattr(row, self.attname) + 1
        setattr(row, self.attname, value)
        return value


class Article(models.Model):
    """A counter next to long columns, and what a row must not be without."""

    number = models.BigIntegerField(unique=True)
    slug = models.CharField(max_length=50, unique=True)
    body = models.TextField()
    views = models.IntegerField(default=0)
    likes = models.IntegerField(default=0)
    low = models.IntegerField(default=0)
    high = models.IntegerField(null=True)
    span = models.GeneratedField(
        expression=100 / models.F("low"), output_field=models.IntegerField(), db_persist=True
    )
    data = models.JSONField(default=dict)
    price = models.DecimalField(max_digits=8, decimal_places=2, default=0)
    raw = models.BinaryField(default=b"")
    owner = models.ForeignKey(Owner, models.CASCADE)
    point = PointField(default=Point(0, 0))
    saved = Counted(default=0)
    stamp = models.CharField(max_length=20, db_default="db")
    updated_at = models.DateTimeField(auto_now=True)

    buffered = RowBuffer(key="number", shards=1)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(high__gte=models.F("low")), name="article_range"
            ),
            models.CheckConstraint(condition=models.Q(low__gt=5), name="article_low"),
        ]


class Branch(models.Model):
    """A row of a tree, with a value that has to be unique."""

    slug = models.SlugField(primary_key=True)
    title = models.CharField(max_length=20, default="")
    code = models.IntegerField(unique=True, null=True)
    above = models.ForeignKey("self", models.CASCADE, null=True)
    points = models.IntegerField(default=0)

    buffered = RowBuffer(key="slug")


class Team(models.Model):
    """Refers to a row of those that refer to it."""

    slug = models.SlugField(primary_key=True)
    title = models.CharField(max_length=20, default="")
    captain = models.ForeignKey("Member", models.SET_NULL, null=True, related_name="+")
    points = models.IntegerField(default=0)

    buffered = RowBuffer(key="slug")


class Member(models.Model):
    """Goes with its team, and keeps the other one it is a guest of."""

    slug = models.SlugField(primary_key=True)
    title = models.CharField(max_length=20, default="")
    team = models.ForeignKey(Team, models.CASCADE)
    guest_of = models.ForeignKey(Team, models.PROTECT, null=True, related_name="guests")
    points = models.IntegerField(default=0)

    buffered = RowBuffer(key="slug")


class Locker(models.Model):
    """Has values that are never null and have to be unique, alone and together."""

    slug = models.SlugField(primary_key=True)
    title = models.CharField(max_length=20, default="")
    number = models.IntegerField(unique=True)
    hall = models.CharField(max_length=20, default="")
    label = models.CharField(max_length=20, default="")
    member = models.ForeignKey(Member, models.CASCADE, null=True)
    branch = models.ForeignKey(Branch, models.SET_NULL, null=True)
    points = models.IntegerField(default=0)

    buffered = RowBuffer(key="slug")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["hall", "label"], name="locker_label")]


class TeamProxy(Team):
    class Meta:
        proxy = True


class Gate(models.Model):
    """Its rows have UUIDs."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    name = models.CharField(max_length=20, default="")

    buffered = RowBuffer(key="id")


class Passage(models.Model):
    """A record of a row with a UUID, and one that is known by a proxy."""

    gate = models.ForeignKey(Gate, models.CASCADE)
    team = models.ForeignKey(TeamProxy, models.CASCADE, null=True)
    at = models.DateTimeField(auto_now_add=True)

    buffered = LogBuffer(time="at")


class Ware(models.Model):
    """Is shown with what is pending by its own manager, and by relations."""

    code = models.CharField(max_length=20, unique=True)
    venue = models.ForeignKey(Venue, models.CASCADE)
    price = models.IntegerField(default=0)

    objects: ClassVar[BufferedManager[Ware]] = BufferedManager()
    buffered = RowBuffer(key="code")


class Ticket(models.Model):
    """As docs/living-with-the-orm.md has it."""

    number = models.BigIntegerField(unique=True)
    subject = models.CharField(max_length=200)
    status = models.CharField(max_length=20, default="open")
    views = models.IntegerField(default=0)

    objects: ClassVar[BufferedManager[Ticket]] = BufferedManager()
    buffered = RowBuffer(key="number")
