"""What sources say, held against what importing says."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys
from textwrap import dedent

import pytest

import layerscope.config
import layerscope.data
import layerscope.models
import layerscope.probes
from layerscope import catalogue
from layerscope.config import DATA, MODELS, DataConfig, ModelConfig
from layerscope.errors import LayerscopeError
from layerscope.probes import PROBES, Probe


def imported(package, root):
    """Every public concrete class of a package, by importing all of it."""
    modules = [
        importlib.import_module(f"{package.__name__}.{found.name}")
        for found in pkgutil.iter_modules(package.__path__)
    ]
    return {
        cls
        for module in modules
        for cls in vars(module).values()
        if inspect.isclass(cls)
        and issubclass(cls, root)
        and not inspect.isabstract(cls)
        and cls.__module__ == module.__name__
        and not cls.__name__.startswith("_")
    }


def test_probes_are_those_that_importing_finds():
    found = catalogue.probes()
    assert {entry.load() for entry in found.values()} == imported(layerscope.probes, Probe)
    for name, entry in found.items():
        probe = PROBES[name]
        assert (entry.headline, entry.symbol) == (probe.summary, probe.__name__)
        assert probe().key == name
        assert getattr(layerscope.probes, entry.symbol) is probe
    places = [probe.place for probe in PROBES.values()]
    assert places == sorted(places)
    assert len({probe.heading for probe in PROBES.values()} - {""}) == len(PROBES)


@pytest.mark.parametrize(
    ("listed", "table", "package", "base"),
    [
        (catalogue.models, MODELS, layerscope.models, ModelConfig),
        (catalogue.data, DATA, layerscope.data, DataConfig),
    ],
    ids=["models", "data"],
)
def test_configurations_are_those_that_importing_finds(listed, table, package, base):
    found = listed()
    known = {cls for cls in imported(layerscope.config, base) if cls is not base}
    known |= imported(package, base)
    assert {entry.load() for entry in found.values()} == {cls for cls in known if cls.known_as}
    for name, entry in found.items():
        assert table[name].known_as == name
        assert entry.headline == inspect.getdoc(table[name]).partition("\n")[0]
        assert callable(table[name]().load_builder())
    assert (len(table), list(table)) == (len(found), list(found))


@pytest.fixture
def package(tmp_path):
    """A made-up package: `write("probes/a.py", text)` puts a module into it."""

    def write(name, text):
        path = tmp_path / "made" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))
        return tmp_path / "made"

    return write


def test_a_probe_is_a_public_dataclass_and_may_derive_from_another(package):
    package(
        "probes/a.py",
        """
        @dataclass(frozen=True)
        class LastOfAll(MomentProbe):
            summary: ClassVar[str] = "the end"

        class _Shared(base.TrajectoryProbe):
            summary = "not shown"

        @dataclass(frozen=True)
        class _Hidden(MomentProbe):
            summary = "not shown"
        """,
    )
    sources = package(
        "probes/b.py",
        """
        @dataclass
        class FirstOfAll(_Shared):
            summary = "the " "start"
            place: ClassVar[int] = 3

        class Helper:
            summary = 3
        """,
    )
    first, last = catalogue.probes(sources).values()
    assert first == catalogue.Entry("first_of_all", "the start", "made.probes.b", "FirstOfAll")
    assert last == catalogue.Entry("last_of_all", "the end", "made.probes.a", "LastOfAll")


def test_a_family_is_a_configuration_with_a_name(package):
    package(
        "config/models.py",
        """
        class Z(ModelConfig, name="z", builder="a:b"):
            '''The Z.'''
        """,
    )
    sources = package(
        "models/a.py",
        """
        class A(config.ModelConfig, builder="a:b", name="a"):
            '''The A.

            More.
            '''

        class B(A, name="b"):
            pass

        class Unnamed(ModelConfig, builder="a:b"):
            pass

        class Other(Something, name="other"):
            pass
        """,
    )
    found = [(e.name, e.headline, e.module) for e in catalogue.models(sources).values()]
    modules = ("made.config.models", "made.models.a", "made.models.a")
    assert found == list(zip("zab", ("The Z.", "The A.", ""), modules, strict=True))


HEAD = "@dataclass(frozen=True)\nclass A(MomentProbe):\n"
BAD = {
    "no summary": ([f"{HEAD}    pass"], "A in made.probes.m0 has no summary"),
    "computed": ([f"{HEAD}    summary = f'{{1}}'"], "summary of A in made.probes.m0 is f'{1}'"),
    "twice": ([f"{HEAD}    summary = 'a'"] * 2, "'a' is defined in made.probes.m0 and in made"),
    "no Python": (["class A("], r"m0.py cannot be read as Python"),
}


@pytest.mark.parametrize(("texts", "message"), BAD.values(), ids=BAD)
def test_what_cannot_be_listed_is_an_error(package, texts, message):
    for i, text in enumerate(texts):
        sources = package(f"probes/m{i}.py", text)
    with pytest.raises(LayerscopeError) as error:
        catalogue.probes(sources)
    assert message in str(error.value)


def test_recipes_are_functions_that_the_paper_decorates(package):
    package(
        "recipes/some/early.py",
        '''
        @paper.recipe("Fig. 10", runs=1)
        def fig10(runs):
            """Ten.

            More.
            """

        @settings.paper.figure("Fig. 2")
        def fig2(runs):
            """Two."""

        @cache
        def helper():
            """No recipe."""

        @paper.bare
        def undecided():
            """No call."""
        ''',
    )
    sources = package(
        "recipes/some/later.py",
        '''
        @paper.table("Table 1")
        def table1(runs):
            """One."""

        @other
        @paper.extra()
        def bound(runs):
            pass
        ''',
    )
    found = catalogue.recipes("recipes/some", sources)
    assert [(e.name, e.headline) for e in found.values()] == [
        ("fig2", "Two."),
        ("fig10", "Ten."),
        ("table1", "One."),
        ("bound", ""),
    ]
    assert found["table1"].module == "made.recipes.some.later"


def test_figures_come_in_the_order_of_the_paper():
    names = ["bound", "fig10", "table2", "fig1a", "fig2", "table10", "fig1", "a", "fig1b"]
    assert sorted(names, key=catalogue.natural) == [
        *("fig1", "fig1a", "fig1b", "fig2", "fig10"),
        *("table2", "table10", "a", "bound"),
    ]


def test_listing_imports_nothing_heavy():
    code = (
        "import sys; from layerscope.cli import main; main(['list']);"
        "heavy = {'torch', 'xarray', 'numpy', 'layerscope.probes'} & set(sys.modules);"
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
