"""What tests/mutation is to break is there; whether it is noticed, `make mutants` tells."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path

import pytest

import writebehind_app
from tests.mutation.anchors import Lost, Package
from tests.mutation.mutant import mutant
from tests.mutation.mutants import MUTANTS
from tests.mutation.touched import default_base, touched

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def package():
    return Package(Path(writebehind_app.__file__).parent)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_code_of_a_safeguard_is_there_once(mutant, package):
    broken = package.broken(mutant)
    for file, text in broken.items():
        if file.endswith(".py"):
            compile(text, file, "exec")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_those_who_must_notice_are_there(mutant):
    for test in mutant.tests:
        file, *names = test.partition("[")[0].split("::")
        text = (ROOT / file).read_text()
        assert all(f"class {name}" in text or f"def {name}(" in text for name in names)


def test_names_are_distinct():
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


CLAIM = """
class Shard:
    @checked
    def claim(self, token):
        if token != "mine" and self.is_held:
            raise Busy("held")
        self.hold(token)
        return token


def release(token):
    if token != "mine":
        return
"""
# The same with other quotes, brackets and comments.
CLAIM_FORMATTED = CLAIM.replace(
    'token != "mine" and self.is_held',
    "(\n            token != 'mine'  # ours\n            and self.is_held)",
)
LUA = """
local function is_full(held)
  if room ~= '-' then
    return held > 5
  end
end
-- if held > 5 then
if held > 5 then return 'no' end
"""


class TestAnchors:
    @pytest.mark.parametrize("code", [CLAIM, CLAIM_FORMATTED])
    @pytest.mark.parametrize("file", ["shard.py", "store/claims.py"])
    @pytest.mark.parametrize("where", ["Shard.claim", "claim"])
    def test_neither_format_nor_file_matters(self, code, file, where, tmp_path):
        broken = _package(tmp_path, {file: code}).broken(
            _mutant(where, 'token != "mine" and self.is_held', "False")
        )
        assert "if False:" in broken[file]
        assert "if token != 'mine':" in broken[file]

    def test_statements(self, tmp_path):
        package = _package(tmp_path, {"shard.py": CLAIM})
        (text,) = package.broken(_mutant("Shard.claim", "self.hold(token)", "")).values()
        assert "hold(" not in text
        (text,) = package.broken(
            _mutant("Shard.claim", "self.hold(token)\nreturn token", "return None")
        ).values()
        assert "hold(" not in text
        assert "return None" in text
        (text,) = package.broken(_mutant("release", 'if token != "mine":\n    return', "")).values()
        assert text.endswith("pass")

    def test_what_is_outside_of_functions(self, tmp_path):
        code = f"token != 'mine'\n{CLAIM}"
        (text,) = (
            _package(tmp_path, {"shard.py": code})
            .broken(_mutant("<module>", 'token != "mine"', "True"))
            .values()
        )
        assert text.startswith("True\n")
        assert text.count("token != 'mine'") == 2

    def test_several_changes(self, tmp_path):
        also = (("release", 'token != "mine"', "True"), ("delivery.lua", "'no'", "'yes'"))
        broken = _package(tmp_path, {"shard.py": CLAIM, "delivery.lua": LUA}).broken(
            mutant("m", "Shard.claim", "self.is_held", "True", "t", also=also)
        )
        assert "and True:" in broken["shard.py"]
        assert "if True:" in broken["shard.py"]
        assert "return 'yes'" in broken["delivery.lua"]

    @pytest.mark.parametrize(
        ("where", "old"), [("Shard.claim", "token == 'mine'"), ("aim", 'token != "mine"')]
    )
    def test_code_that_is_not_there(self, where, old, tmp_path):
        with pytest.raises(Lost, match=f"no {where} has this code"):
            _package(tmp_path, {"shard.py": CLAIM}).broken(_mutant(where, old, "False"))

    def test_code_that_is_there_twice(self, tmp_path):
        twice = _mutant("release", 'token != "mine"', "False")
        with pytest.raises(Lost, match=r"1 times in a\.py, 1 times in b\.py.*there once"):
            _package(tmp_path, {"a.py": CLAIM, "b.py": CLAIM}).broken(twice)
        with pytest.raises(Lost, match=r"3 times in a\.py"):
            _package(tmp_path, {"a.py": CLAIM, "b.py": ""}).broken(
                _mutant("Shard.claim", "token", "None")
            )

    @pytest.mark.parametrize("old", ["held > 5", "held  >\n  5", "held > --[[ so many ]] 5"])
    def test_lua(self, old, tmp_path):
        package = _package(tmp_path, {"scripts/delivery.lua": LUA})
        (text,) = package.broken(_mutant("delivery.lua:is_full", old, "false")).values()
        assert text == LUA.replace("return held > 5", "return false")
        with pytest.raises(Lost, match="2 times"):
            package.broken(_mutant("delivery.lua", old, "false"))
        (text,) = package.broken(_mutant("delivery.lua", f'{old} then return "no"', "")).values()
        assert text.endswith("\nif  end\n")


class TestTouched:
    @pytest.fixture
    def project(self, tmp_path):
        """A repository with one commit, whose one mutant is this one."""
        _write(
            tmp_path,
            {
                "writebehind_app/shard.py": CLAIM,
                "writebehind_app/other.py": "def claim(): ...\n",
                "tests/test_shard.py": "def test_claim(): ...\n",
                "tests/__init__.py": "",
                "tests/mutation/__init__.py": "",
                "tests/mutation/mutants.py": self.definition(self.MUTANT),
            },
        )
        _git(tmp_path, "init", "--quiet", "--initial-branch=main")
        _commit(tmp_path)
        return tmp_path

    MUTANT = mutant("m", "Shard.claim", "self.is_held", "True", "tests/test_shard.py::test_claim")

    def definition(self, mutant):
        return f"MUTANTS = [{json.loads(json.dumps(vars(mutant)))!r}]\n"

    def touched(self, project):
        return bool(touched(project, "HEAD", [self.MUTANT]))

    @pytest.mark.parametrize(
        "change",
        [
            {"writebehind_app/shard.py": CLAIM.replace("hold(token)", "hold(None)")},
            {"tests/test_shard.py": "def test_claim(): pass\n"},
        ],
        ids=["function", "tests"],
    )
    def test_by_what_it_names(self, change, project):
        assert not self.touched(project)
        _write(project, change)
        assert self.touched(project)
        _commit(project)
        assert not self.touched(project)

    @pytest.mark.parametrize(
        "change",
        [
            {"writebehind_app/shard.py": CLAIM_FORMATTED},
            {"writebehind_app/shard.py": "", "writebehind_app/claims.py": CLAIM},
            {"writebehind_app/shard.py": CLAIM.replace("        return\n", "        return 1\n")},
            {"writebehind_app/other.py": "def claim(): pass\n"},
        ],
        ids=["format", "file", "another function", "another file"],
    )
    def test_by_nothing_else(self, change, project):
        _write(project, change)
        assert not self.touched(project)

    def test_by_a_change_of_the_mutant(self, project):
        for change in ({"name": "n"}, {"databases": ("mariadb",)}, {"changes": ()}):
            assert touched(project, "HEAD", [dataclasses.replace(self.MUTANT, **change)])

    def test_since_the_branch_left_main(self, project):
        first = _git(project, "rev-parse", "HEAD")
        _commit(project)
        assert default_base(project) == first  # on main: one commit ago
        left = _git(project, "rev-parse", "HEAD")
        _git(project, "switch", "--quiet", "--create", "branch")
        _commit(project)
        _commit(project)
        assert default_base(project) == left
        _git(project, "update-ref", "refs/remotes/origin/main", first)
        assert default_base(project) == first


def _mutant(where, old, new):
    return mutant("m", where, old, new, "t")


def _package(directory, files):
    _write(directory, files)
    return Package(directory)


def _write(directory, files):
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)


def _commit(project):
    _git(project, "add", "--all")
    who = ("-c", "user.name=tests", "-c", "user.email=tests@localhost")
    _git(project, *who, "commit", "--quiet", "--allow-empty", "--message=A change")


def _git(project, *arguments):
    git = ["git", "-C", str(project), *arguments]
    return subprocess.run(git, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
