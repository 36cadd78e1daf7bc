"""The files around the code agree with each other: workflows, hooks, the source archive."""

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def jobs() -> dict[str, Any]:
    return {
        f"{path.stem}: {name}": job
        for path in WORKFLOWS
        for name, job in load(path)["jobs"].items()
    }


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_action_is_pinned_by_commit_and_says_its_version(path: Path) -> None:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if "uses:" in line]

    assert lines
    for line in lines:
        assert re.search(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_read_and_no_more(path: Path) -> None:
    workflow = load(path)

    assert workflow["permissions"] in ({}, {"contents": "read"})
    # YAML 1.1 reads the key `on` as True.
    assert "pull_request_target" not in workflow[True]


def test_only_the_job_that_publishes_may_do_more() -> None:
    more = {
        name: job["permissions"]
        for name, job in jobs().items()
        if job.get("permissions", {}) not in ({}, {"contents": "read"})
    }

    assert more == {"release: publish": {"id-token": "write"}}


@pytest.mark.parametrize("name", jobs())
def test_a_job_has_a_time_limit_and_keeps_no_credentials(name: str) -> None:
    job = jobs()[name]

    assert job["timeout-minutes"] <= 30
    for step in job["steps"]:
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_no_expression_is_pasted_into_a_command() -> None:
    commands = [step["run"] for job in jobs().values() for step in job["steps"] if "run" in step]

    assert [command for command in commands if "${{" in command] == []


def test_the_readme_is_short_and_begins_with_what_people_come_for() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    first_screen = text.partition("\n## ")[0]

    assert len(text.splitlines()) < 150
    assert re.findall(r"^\*\*(.+?)\.?\*\*", first_screen, flags=re.MULTILINE) == [
        "One loop that outlives the call",
        "Streams that stop when dropped",
        "An executor",
        "Nothing to clean up",
    ]


def test_the_workflow_does_what_the_script_does() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    checks = load(ROOT / ".github" / "workflows" / "checks.yml")["jobs"]
    matrix = checks["environments"]["strategy"]["matrix"]["include"]
    pythons = checks["tests"]["strategy"]["matrix"]["python"]
    hosted = {entry["environment"] for entry in matrix}
    commands = {step["run"] for step in checks["readme"]["steps"] if "run" in step}

    # Neither has the coverage: tracing doubles the time.
    assert {*PROJECT["tool"]["tox"]["env_list"]} - {"coverage"} <= hosted | {*pythons}
    for environment in hosted:
        assert environment.partition("-")[0] in script
    assert commands == {
        *re.findall(r"^python -m pip install -e [^&]+ && python .*$", readme, re.MULTILINE)
    }
    assert {*checks["passed"]["needs"]} == checks.keys() - {"passed"}


def test_the_workflow_tests_each_python_of_the_classifiers() -> None:
    pythons = load(ROOT / ".github" / "workflows" / "checks.yml")["jobs"]["tests"]["strategy"][
        "matrix"
    ]
    prefix = "Programming Language :: Python :: 3."
    supported = {
        f"3.{classifier.removeprefix(prefix)}"
        for classifier in PROJECT["project"]["classifiers"]
        if classifier.startswith(prefix)
    }

    assert len(supported) >= 4
    assert supported <= set(pythons["python"])


def test_the_hooks_have_the_linter_that_lint_has() -> None:
    [repo] = load(ROOT / ".pre-commit-config.yaml")["repos"]

    for hook in repo["hooks"]:
        assert (
            hook["additional_dependencies"] == PROJECT["project"]["optional-dependencies"]["lint"]
        )
    entries = {hook["entry"].removesuffix(" --fix") for hook in repo["hooks"]}
    lint = PROJECT["tool"]["tox"]["env"]["lint"]["commands"]
    assert entries == {" ".join(command).removesuffix(" --check") for command in lint}


def test_the_source_archive_has_what_its_tests_read() -> None:
    included = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["only-include"]

    assert [path for path in included if not (ROOT / path).exists()] == []
    assert {".github", ".pre-commit-config.yaml", "SECURITY.md", "docs", "tests"} <= {*included}


def test_the_contributors_commands_name_tests_and_environments_that_exist() -> None:
    page = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    chosen = re.findall(r"^\$ .*?(tests/[\w/]+\.py)(?: -k (\w+))?$", page, flags=re.MULTILINE)
    environments = set(re.findall(r"tox run -e ([\w.-]+)", page))

    assert len(chosen) >= 4
    for path, word in chosen:
        assert re.search(rf"def test_\w*{word}", (ROOT / path).read_text(encoding="utf-8"))
    assert environments <= {*PROJECT["tool"]["tox"]["env_list"]}
    [words, path] = re.findall(r"change the words `(.+?)` in `(.+?)`", page)[0]
    assert words in (ROOT / path).read_text(encoding="utf-8")


def modules_of_the_package() -> set[str]:
    """Each by its name inside of palitra; an `__init__` counts as its package."""
    folder = ROOT / "palitra"
    names = {
        ".".join(path.relative_to(folder).with_suffix("").parts) for path in folder.rglob("*.py")
    }
    return {name.removesuffix(".__init__") for name in names}


def order_of_imports() -> list[str]:
    """The modules as `tests/contract/test_rooms.py` has them."""
    tree = ast.parse((ROOT / "tests" / "contract" / "test_rooms.py").read_text(encoding="utf-8"))
    [order] = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ORDER"
    ]
    return [name.removeprefix("palitra.") for name in order]


def first_cells(page: str, after: str) -> list[str]:
    """The code in the first cell of each line of the table that comes next *after* a heading."""
    text = (ROOT / page).read_text(encoding="utf-8").partition(after)[2]
    [table, *_] = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    return re.findall(r"^\| `([\w./]+)` \|", table, flags=re.MULTILINE)


def test_the_contributors_page_names_each_room() -> None:
    named = first_cells("docs/contributing.md", "## The rooms of the house")
    rooms = [name.removesuffix(".py").replace("/", ".") for name in named]

    assert {*rooms} == modules_of_the_package() - {"_bridges"}
    assert rooms[1:] == [name for name in order_of_imports() if name in rooms[1:]]


def test_the_page_on_how_it_works_names_each_room() -> None:
    rooms = first_cells("docs/explanation/how-it-works.md", "## The rooms")
    outer = {name.partition(".")[0] for name in modules_of_the_package()}

    assert {*rooms} == outer - {"__init__"}
    assert rooms == [name for name in order_of_imports() if name in rooms]
