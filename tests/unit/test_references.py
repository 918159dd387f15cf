"""How a bundle is named: every form reads back as it was written, everything else says what is allowed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.registry.references import Reference, parse_reference, registered_name
from utuning.errors import ConfigError

NAMES = st.from_regex(r"[a-z_][a-z0-9 ._-]{0,12}", fullmatch=True).map(lambda name: f"utuning-{name}")
ALIASES = st.from_regex(r"[a-uw-z][A-Za-z0-9_-]{0,12}", fullmatch=True).filter(lambda alias: alias.lower() != "latest")
REFERENCES = st.one_of(
    st.builds(lambda name, alias: Reference(name=name, alias=alias), NAMES, ALIASES),
    st.builds(lambda name, version: Reference(name=name, version=version), NAMES, st.integers(1, 10**6)),
    st.builds(lambda number: Reference(run_id=f"{number:032x}"), st.integers(0, 2**128 - 1)),
)


@given(REFERENCES)
def test_a_reference_reads_back_as_it_was_written(reference: Reference) -> None:
    assert parse_reference(str(reference)) == reference


@given(NAMES)
def test_a_name_alone_means_its_champion(name: str) -> None:
    assert parse_reference(name) == parse_reference(f"{name}@champion")


@given(st.text(max_size=40))
def test_any_text_is_a_reference_or_an_error_in_words(text: str) -> None:
    try:
        found = parse_reference(text)
    except ConfigError as error:
        assert "; allowed: " in str(error) and len(str(error)) < 400
    else:
        assert parse_reference(str(found)) == found


@pytest.mark.parametrize(
    "text", ["", "@champion", "demo@", "/3", "demo/0", "demo/03", "demo/champion", "demo@v3", "demo@Latest", "a'b",
             "models:/demo/3", "../demo", "de\nmo", "demo@cham pion"]
)  # fmt: skip
def test_what_names_no_bundle(text: str) -> None:
    with pytest.raises(ConfigError, match="allowed: "):
        parse_reference(text)


def test_a_space_stands_for_the_model_of_its_data_set() -> None:
    assert registered_name("demo") == "utuning-demo"
    assert registered_name("utuning-anything") == "utuning-anything"
    assert registered_name("nobody-knows") == "utuning-nobody-knows"
    assert parse_reference("my/spaces/mine.yaml@canary") == Reference(name="my/spaces/mine.yaml", alias="canary")
    assert parse_reference("my/spaces/mine.yaml/3") == Reference(name="my/spaces/mine.yaml", version=3)
