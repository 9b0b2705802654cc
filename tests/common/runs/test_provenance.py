"""What differs between two runs, and what is noted of the machine."""

from common.runs.provenance import differences, environment_facts, first_difference, vector_flags


def test_all_differences_are_named():
    old = {"packages": {"numpy": "2.0", "keras": "3.12"}, "cores": 2, "flags": ["a", "b"]}
    new = {"packages": {"numpy": "2.1", "keras": "3.12"}, "flags": ["a", "c"], "xla": True}
    assert list(differences(old, new)) == [
        ("packages.numpy", "2.0", "2.1"),
        ("cores", 2, None),
        ("flags[1]", "b", "c"),
        ("xla", None, True),
    ]
    assert first_difference(old, new) == ("packages.numpy", "2.0", "2.1")
    assert list(differences(old, dict(old))) == []


def test_only_vector_instructions_are_noted():
    flags = "fpu vme sse4_2 avx avx512_bf16 fma amx_tile lahf_lm avx"
    assert vector_flags(flags) == ["amx_tile", "avx", "avx512_bf16", "fma", "sse4_2"]


def test_variables_that_change_the_arithmetic(monkeypatch, tmp_path):
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    monkeypatch.setenv("A_SECRET", "not for a manifest")
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.chdir(tmp_path)
    facts = environment_facts()
    assert facts["variables"]["TF_ENABLE_ONEDNN_OPTS"] == "0"
    assert not {"A_SECRET", "XLA_FLAGS"} & set(facts["variables"])
    assert facts["folder"] == str(tmp_path)
    assert isinstance(facts["cpu"], str)
