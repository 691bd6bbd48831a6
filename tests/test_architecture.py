"""The house as its imports and sizes show it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("common", "server", "client", "simulation", "cli", "fedmtl")
MAIN = "federated_main.py"
GENERATED = "common/wire/gen/"


@cache
def sources() -> dict[str, ast.Module]:
    """Every file of the product, generated code apart, by its path."""
    paths = [ROOT / MAIN, *(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))]
    names = {path.relative_to(ROOT).as_posix(): path for path in paths}
    return {
        name: ast.parse(path.read_text(encoding="utf-8"))
        for name, path in sorted(names.items())
        if not name.startswith(GENERATED)
    }


def test_files() -> list[Path]:
    return [path for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]


test_files.__test__ = False  # type: ignore[attr-defined]


def imports(tree: ast.Module) -> Iterator[str]:
    """Dotted names of everything that a file imports, at any depth."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def imported() -> dict[str, frozenset[str]]:
    """What every file of the product imports, by its path."""
    return {name: frozenset(imports(tree)) for name, tree in sources().items()}


def importers(module: str) -> set[str]:
    """The files that import `module` or something in it."""
    return {
        name
        for name, all_ in imported().items()
        if any(found == module or found.startswith(f"{module}.") for found in all_)
    }


def within(names: set[str], *places: str) -> set[str]:
    """What is in none of the places; a place is a file, or a folder with a slash at its end."""
    return {name for name in names if not any(name == p or (p.endswith("/") and name.startswith(p)) for p in places)}


def test_the_walk_sees_the_product() -> None:
    assert {MAIN, "server/core/step.py", "client/agent.py", "common/wire/codec.py"} <= set(sources())
    assert "server/engine/writer.py" in importers("server.core.step")


def test_server_and_client_never_import_each_other() -> None:
    assert within(importers("client"), "client/", "simulation/", "cli/", "fedmtl/") == set()
    assert within(importers("server"), "server/", "simulation/", "cli/", "fedmtl/") == set()


def test_only_the_command_line_and_python_import_simulation_and_nothing_imports_those() -> None:
    assert within(importers("simulation"), "simulation/", "cli/", "fedmtl/") == set()
    assert within(importers("cli"), "cli/", MAIN) == set()
    assert importers("federated_main") == {"fedmtl/__main__.py"}
    assert within(importers("fedmtl"), "fedmtl/") == set()


@pytest.mark.parametrize(
    ("module", "places"),
    [
        ("grpc", ("server/service/", "client/transport/")),
        ("google.protobuf", ("common/wire/",)),
        ("common.wire.gen", ("common/wire/",)),
        ("transformers", ("common/models/", "common/export/", "client/data/")),
        ("tokenizers", ("common/models/", "client/data/")),
        ("pydantic", ("common/config/",)),
        ("pydantic_core", ("common/config/",)),
        ("yaml", ("common/config/",)),
        ("sqlite3", ("server/storage/",)),
        ("datasets", ("client/data/",)),
        ("pyarrow", ("client/data/",)),
        ("matplotlib", ("simulation/comparison/pictures.py", "fedmtl/pictures.py")),
        ("argparse", ("cli/",)),
        ("onnxruntime", ("common/export/onnx_file.py",)),
        ("numba", ("client/training/coordinate_loop.py",)),
        ("cryptography", ("common/privacy/noise.py", "common/secure/", "common/credentials/")),
    ],
)
def test_a_library_is_imported_in_its_rooms_only(module: str, places: tuple[str, ...]) -> None:
    found = importers(module)
    assert found, f"nothing imports {module}: the rule is out of date"
    assert within(found, *places) == set()


@pytest.mark.parametrize(
    "module",
    [
        "torch numpy safetensors xxhash",  # no tensor
        "time datetime random secrets uuid os socket asyncio threading logging pathlib sqlite3 io",  # no world
        "server.engine server.storage server.service server.aggregation server.relations",  # no upwards
        "server.runs server.reporting",
        "common.wire common.models common.config common.clock common.parameters.flat",
    ],
)
def test_the_core_knows_neither_tensors_nor_the_world(module: str) -> None:
    for name in module.split():
        assert {file for file in importers(name) if file.startswith("server/core/")} == set(), name


def test_pickle_and_process_wide_randomness_are_not_used() -> None:
    for module in ("pickle", "marshal", "shelve", "dill", "joblib"):
        assert importers(module) == set(), module
    used = {
        (name, ast.unparse(node))
        for name, tree in sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name | ast.Attribute)
        and ast.unparse(node.value) in ("random", "np.random", "numpy.random")
    }
    assert {what for _, what in used} <= {"random.Random", "np.random.Generator", "np.random.PCG64"}, used
    loads = {
        name
        for name, tree in sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "torch.load"
        and not any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)
    }
    assert loads == set()


def lower_rooms(place: str) -> set[str]:
    """Rooms of one side that `place` may import, itself included."""
    return {place, *(room for below in _BELOW[place] for room in lower_rooms(below))}


# Every room with the rooms right below it. A file in `client/` itself is a room of its own name.
_BELOW: dict[str, tuple[str, ...]] = {
    "server.core": (),
    "server.relations": ("server.core",),
    "server.aggregation": ("server.relations",),
    "server.storage": ("server.core",),
    "server.engine": ("server.aggregation", "server.storage"),
    "server.reporting": ("server.core",),
    "server.service": (),
    "server.runs": ("server.engine", "server.reporting", "server.service"),
    "client.data": (),
    "client.state": (),
    "client.transport": (),
    "client.training": ("client.data",),
    "client.limits": (),
    "client.jobs": ("client.limits", "client.state", "client.training"),
    "client.masking": ("client.jobs",),
    "client.pulse": ("client.training",),
    "client.participation": ("client.masking", "client.pulse"),
    "client.agent": ("client.participation",),
    "client.status": ("client.transport",),
    "client.app": ("client.agent", "client.transport"),
    "client.answers": ("client.app",),
    "client.disclosure": ("client.app",),
}


def room(module: str) -> str:
    return ".".join(module.split(".")[:2])


@pytest.mark.parametrize("side", ["server", "client"])
def test_rooms_import_only_what_lies_below_them(side: str) -> None:
    rooms = {
        room(name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")): []
        for name in sources()
        if name.startswith(f"{side}/") and name != f"{side}/__init__.py"
    }
    assert set(rooms) == {name for name in _BELOW if name.startswith(side)}, "a room is new or gone"
    for name, tree in sources().items():
        if name.startswith(f"{side}/"):
            here = room(name.removesuffix(".py").replace("/", "."))
            used = {room(found) for found in imports(tree) if found.startswith(f"{side}.")}
            assert used <= (lower_rooms(here) if here in _BELOW else set()), name


def test_common_stands_on_its_own() -> None:
    for name, tree in sources().items():
        if name.startswith("common/"):
            assert {found.split(".")[0] for found in imports(tree)} & {"server", "client", "simulation"} == set(), name


def test_files_and_functions_fit_in_a_head() -> None:
    for path in [*map(ROOT.joinpath, sources()), *test_files()]:
        text, known = path.read_text(encoding="utf-8"), sources().get(path.relative_to(ROOT).as_posix())
        assert text.count("\n") <= 400, f"{path.relative_to(ROOT)} has {text.count(chr(10))} lines"
        for node in ast.walk(known or ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                length = node.end_lineno - node.lineno + 1
                assert length <= 60, f"{path.relative_to(ROOT)}: {node.name} has {length} lines"


def test_names_say_what_is_inside() -> None:
    for name, tree in sources().items():
        words = {part.removesuffix(".py") for part in name.split("/")}
        assert not words & {"utils", "util", "helpers", "helper", "manager", "misc"}, name
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                assert not re.search(r"(Manager|Helper|Utils?)$", node.name), f"{name}: {node.name}"


def test_no_two_classes_share_a_name() -> None:
    places: dict[str, list[str]] = {}
    for name, tree in sources().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(name)
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def depth(name: str, parents: dict[str, list[str]]) -> int:
    """How many classes of ours lie above a class."""
    return max((1 + depth(parent, parents) for parent in parents[name] if parent in parents), default=0)


def test_inheritance_is_at_most_two_deep() -> None:
    parents = {
        node.name: [ast.unparse(base).split(".")[-1] for base in node.bases]
        for tree in sources().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    assert {name for name in parents if depth(name, parents) > 2} == set()


# Where an exception of any kind is caught, how often, and why that is right there.
CATCHES_EVERYTHING = {
    "server/engine/writer.py": (1, "after a failed effect only a restart is safe; raised again"),
    "server/service/handlers.py": (1, "the log gets the defect, the caller hears that there was one"),
    "common/errors.py": (1, "what libraries raise on foreign files and servers becomes one line of ours"),
}


def test_exceptions_of_any_kind_are_caught_in_listed_places_only() -> None:
    found: dict[str, list[ast.ExceptHandler]] = {}
    for name, tree in sources().items():
        for node in ast.walk(tree):
            kind = node.type if isinstance(node, ast.ExceptHandler) else None
            if isinstance(node, ast.ExceptHandler) and (
                kind is None or re.search(r"\b(Base)?Exception\b", ast.unparse(kind))
            ):
                found.setdefault(name, []).append(node)
    assert {name: len(nodes) for name, nodes in found.items()} == {
        name: count for name, (count, _) in CATCHES_EVERYTHING.items()
    }
    for name, nodes in found.items():
        for node in nodes:
            raises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
            assert raises or name == "server/service/handlers.py", name


_SCOPE_NAME = re.compile(r"(shared|task|private|group|member|anchor|dual)/[^\s/]*")
_TAKES_APART = {"startswith", "removeprefix", "split", "rsplit", "partition", "rpartition", "replace", "count"}


def test_names_of_scopes_are_put_together_and_taken_apart_in_one_file() -> None:
    found = {
        (name, ast.unparse(node))
        for name, tree in sources().items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Constant) and isinstance(node.value, str) and _SCOPE_NAME.match(node.value + " "))
        or (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in _TAKES_APART
            and re.fullmatch(r"(.*[._])?(scope|template)", ast.unparse(node.func.value))
        )
    }
    assert {where for where, _ in found} == {"common/parameters/scope.py"}, found
