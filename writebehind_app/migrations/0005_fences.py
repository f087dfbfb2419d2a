from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("writebehind", "0004_discarded_letters"),
    ]

    operations = [
        migrations.CreateModel(
            name="Fence",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("buffer", models.CharField(max_length=200, verbose_name="buffer")),
                ("digest", models.CharField(max_length=40, verbose_name="digest")),
                ("marks", models.TextField(verbose_name="marks")),
                ("at", models.BigIntegerField(verbose_name="at")),
            ],
            options={
                "verbose_name": "fence",
                "verbose_name_plural": "fences",
                "indexes": [models.Index(fields=["buffer", "at"], name="writebehind_fence_at")],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("buffer", "digest"), name="writebehind_fence_key"
                    )
                ],
            },
        ),
    ]
