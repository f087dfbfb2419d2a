"""How the package is imported: by name and late, from an app of anybody's, and in no circle."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import writebehind_app
from tests.documents import ROOT, blocks

SETTINGS = """
SECRET_KEY = "x"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
INSTALLED_APPS = ["shop", "writebehind_app.meta", "writebehind_app", "django.contrib.auth",
    "django.contrib.contenttypes"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
WRITEBEHIND = {"REDIS": "redis://localhost:1/0"}
"""
MODELS = """
from django.db import models
from writebehind_app import Add, LogBuffer, MetaBuffer, Receipt, RowBuffer, batch, register

class Ticket(models.Model):
    number = models.BigIntegerField(unique=True)
    views = models.IntegerField(default=0)
    buffered = RowBuffer(key="number")
"""


def run(code: str, path: Path = ROOT) -> str:
    """What a new process prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=path,
        env={"PYTHONPATH": str(ROOT)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout.strip()


class TestThePackageItself:
    def test_it_imports_neither_django_nor_redis(self):
        code = "import sys, writebehind_app; print({'django', 'redis', 'asyncio'} & {*sys.modules})"
        assert run(code) == "set()"

    def test_it_has_each_of_its_names(self):
        for name in writebehind_app.__all__:
            assert getattr(writebehind_app, name) is not None
            assert name in dir(writebehind_app)

    def test_it_has_no_other_names(self):
        with pytest.raises(AttributeError, match=r"'writebehind_app' has no attribute 'Rowbuffer'"):
            writebehind_app.Rowbuffer  # noqa: B018

    def test_type_checkers_know_that(self):
        """To them, a module with a function `__getattr__` has every name."""
        tree = ast.parse(Path(writebehind_app.__file__).read_text())
        hidden = [
            node
            for node in tree.body
            if isinstance(node, ast.If) and ast.unparse(node.test) == "not TYPE_CHECKING"
        ]
        names = [
            [node.name for node in body if isinstance(node, ast.FunctionDef)]
            for body in (tree.body, *(node.body for node in hidden))
        ]
        assert names == [["__dir__"], ["__getattr__"]]


def test_pytest_may_import_its_plugin_before_django_is_set_up():
    assert run("import writebehind_app.testing; print('imported')") == "imported"


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """The directory of a project with an app `shop`."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "models.py").write_text(MODELS)
    (tmp_path / "shop_settings.py").write_text(SETTINGS)
    return tmp_path


SETUP = (
    "import os, sys; sys.path.insert(0, '.'); os.environ['DJANGO_SETTINGS_MODULE'] = "
    "'shop_settings'; import django; django.setup(); "
)


def test_the_app_with_the_models_may_be_listed_first(shop):
    code = (
        f"{SETUP}from django.core.management import call_command; call_command('check'); "
        "call_command('migrate', run_syncdb=True, verbosity=0); "
        "from shop.models import Ticket; Ticket.buffered.set(number=1, views=2); "
        "print(Ticket.objects.get(number=1).views)"
    )
    assert run(code, shop).splitlines()[-1] == "2"


@pytest.mark.parametrize("module", ["__init__.py", "apps.py"])
def test_an_import_before_the_apps_are_loaded_is_told_where_to_go(shop, module):
    (shop / "shop" / module).write_text("from writebehind_app import RowBuffer")
    code = f"try:\n    {SETUP}\nexcept Exception as error:\n    print(repr(error))"
    said = run(code, shop)
    assert said.startswith("AppRegistryNotReady('RowBuffer was imported before")
    assert "import RowBuffer in models.py, or inside ready() of an AppConfig." in said


def test_a_buffer_may_be_registered_in_ready_as_the_documents_say(shop):
    page = ROOT / "docs" / "writing.md"
    ((_, code),) = blocks(page, "A model that is not yours")
    (shop / "shop" / "apps.py").write_text(code.replace("helpdesk", "shop"))
    code = f"{SETUP}from django.contrib.auth.models import User; print(User.buffered)"
    assert run(code, shop) == "auth.User.buffered"


class TestTheGraph:
    """Of all imports between modules, those within functions counted, those for types not."""

    def test_it_has_no_circle(self):
        trees = modules()
        edges = {name: {*imported(tree, trees)} - {name} for name, tree in trees.items()}
        TopologicalSorter(edges).prepare()  # CycleError names the modules of one

    def test_only_what_runs_before_there_are_models_imports_within_functions(self):
        trees = modules()
        late = {
            name
            for name, tree in trees.items()
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
            and any(imported(function, trees))
        }
        assert late == {"writebehind_app.apps", "writebehind_app.testing"}

    def test_exceptions_import_nothing(self):
        trees = modules()
        assert not any(imported(trees["writebehind_app.exceptions"], trees))

    def test_an_import_within_a_function_is_found(self):
        """Or the others would prove nothing."""
        trees = modules()
        code = (
            "def f():\n    from writebehind_app.store import shard\n    import writebehind_app.conf"
        )
        found = {*imported(ast.parse(code), trees)}
        assert found == {"writebehind_app.store.shard", "writebehind_app.conf"}


@cache
def modules() -> dict[str, ast.Module]:
    """The code of each module of the package but the package itself, which imports by name."""
    package = Path(writebehind_app.__file__).parent
    files = package.rglob("*.py")
    found = {}
    for file in files:
        name = ".".join(file.relative_to(package.parent).with_suffix("").parts).removesuffix(
            ".__init__"
        )
        if "migrations" not in file.parts and name != "writebehind_app":
            found[name] = ast.parse(file.read_text())
    return found


def imported(tree: ast.AST, modules: dict[str, ast.Module]) -> Iterator[str]:
    """The modules that a piece of code imports."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield from [found for found in (name, node.module) if found in modules][:1]
        elif not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield from imported(node, modules)
