"""What a client reads: whole characters, thinking apart, texts that end a completion; and what a request may say."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from reason_rl.content import find_content
from reason_rl.rollout.backend import SamplingOptions
from reason_rl.serve.engine import Token
from reason_rl.serve.errors import ApiError
from reason_rl.serve.policy import Asked, Exits, Policies, asked_as, open_exits
from reason_rl.serve.schema import ChatRequest, CompletionRequest, ProbeAsk, StopAsk, read_body
from reason_rl.serve.text import Decoder, Reader, StopTexts
from reason_rl.stopping.artefact import Certificate, Conditions, Fingerprint, save_certificate
from reason_rl.stopping.conformal import certify
from reason_rl.stopping.probe import Probe
from reason_rl.stopping.thinking import ThinkTokens

END, START, EOS, BOXED, CLOSE = 6, 5, 1, 7, 8
TOKENS = ThinkTokens(END, START, (EOS,))


@pytest.fixture(scope="module")
def byte_tokenizer():
    """Return a tokenizer of one token a byte, so that characters come in parts."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def test_pieces_are_whole_characters_and_together_the_text(byte_tokenizer):
    text = "añ 🙂b, 数"
    decoder = Decoder(byte_tokenizer)
    pieces = [decoder.push(token) for token in byte_tokenizer(text).input_ids]
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert pieces[1] == ""  # half of ñ
    assert decoder.flush() == ""


def test_a_character_that_was_cut_is_told_at_the_end(byte_tokenizer):
    decoder = Decoder(byte_tokenizer)
    told = "".join(decoder.push(token) for token in byte_tokenizer("a🙂").input_ids[:-1])
    assert told == "a"
    assert decoder.flush() == "\ufffd"


def test_words_keep_their_spaces(tiny_tokenizer):
    ids = tiny_tokenizer("5 + 3 = 8 ; wait").input_ids
    decoder = Decoder(tiny_tokenizer)
    assert "".join(decoder.push(token) for token in ids) == "5 + 3 = 8 ; wait"


@given(
    st.lists(st.text("ab\n", max_size=4), max_size=12),
    st.lists(st.text("ab\n", min_size=1, max_size=3), min_size=1, max_size=3),
)
def test_a_text_ends_where_it_ends_in_one_piece(pieces, stops):
    """However the text is cut up, what is told is a beginning of it that holds no stop, and all of it when there is none."""
    text, stop, told = "".join(pieces), StopTexts(tuple(stops)), ""
    for piece in pieces:
        told += stop.push(piece)
        assert not any(s in told for s in stops)
        if stop.found is not None:
            break
    if stop.found is None:
        assert told + stop.flush() == text
        assert not any(s in text for s in stops)
    else:
        assert text.startswith(told + stop.found)


def read(tokenizer, text, finish="stop", *, stops=(), split=True, opened=True, thinks=True):
    reader = Reader(tokenizer, TOKENS, thinks, split, opened, stops)
    ids = tokenizer(text).input_ids
    deltas = []
    for i, token in enumerate(ids):
        deltas.append(reader.read(Token(token, -0.5, finish if i == len(ids) - 1 else None, None)))
        if deltas[-1].finish:
            break
    return reader, "".join(d.reasoning for d in deltas), "".join(d.content for d in deltas)


def test_thinking_is_kept_apart_and_counted_up_to_its_end(tiny_tokenizer):
    reader, thinking, answer = read(tiny_tokenizer, "5 + 3 = 8 </think> \\boxed{ 8 } <eos>")
    assert (thinking, answer, reader.finish) == ("5 + 3 = 8", "\\boxed{ 8 }", "stop")
    assert (reader.think_tokens, reader.written) == (6, 10)


def test_bare_completions_keep_the_marks(tiny_tokenizer):
    reader, thinking, text = read(tiny_tokenizer, "5 </think> \\boxed{ 5 } <eos>", split=False)
    assert (thinking, text, reader.think_tokens) == ("", "5 </think> \\boxed{ 5 }", 2)


@pytest.mark.parametrize(
    ("text", "opened", "thinking", "answer", "counted"),
    [
        ("5 + 3", True, "5 + 3", "", 3),
        ("<think> 5 + </think> 8", False, "5 +", "8", 4),
        ("8 no", False, "", "8 no", 0),
    ],
)
def test_thinking_that_was_cut_opened_by_the_model_or_never_began(
    tiny_tokenizer, text, opened, thinking, answer, counted
):
    reader, *parts = read(tiny_tokenizer, text, "length", opened=opened)
    assert parts == [thinking, answer]
    assert (reader.think_tokens, reader.finish) == (counted, "length")


def test_exits_finish_as_stop_and_stop_texts_say_which(tiny_tokenizer):
    assert read(tiny_tokenizer, "5 </think> 5 <eos>", "exit")[0].finish == "stop"
    reader, thinking, answer = read(tiny_tokenizer, "5 + 3 wait 5 + 3", "length", stops=("wait", "no"))
    assert (thinking, answer, reader.finish, reader.stopped_by) == ("5 + 3 ", "", "stop", "wait")
    assert reader.written == 4


def test_stop_is_a_string_strings_or_an_object():
    def stop(value):
        return read_body(CompletionRequest, json.dumps({"model": "m", "prompt": "x", "stop": value}).encode()).stop

    assert stop("a").strings == stop(["a"]).strings == stop({"strings": "a"}).strings == ["a"]
    assert stop(None) == stop([]) == StopAsk()
    assert stop({"probe": True}).probe == ProbeAsk()
    assert stop({"probe": False}).probe is None
    assert stop({"probe": {"risk": 0.1}, "strings": ["a", "b"]}) == StopAsk(
        probe=ProbeAsk(risk=0.1), strings=["a", "b"]
    )
    assert stop({"strength": 2, "budget": 0}) == StopAsk(strength=2.0, budget=0)


def test_fields_that_change_nothing_are_taken():
    body = {
        "model": "m",
        "messages": [
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "2 + "}, {"type": "text", "text": "2"}]},
            {"role": "assistant", "content": "4", "refusal": None, "reasoning_content": "hm", "annotations": []},
        ],
        "user": "u",
        "frequency_penalty": 0.0,
        "logit_bias": None,
        "response_format": {"type": "text"},
        "top_logprobs": None,
    }
    said = read_body(ChatRequest, json.dumps(body).encode())
    assert [m.plain() for m in said.messages] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "2 + 2"},
        {"role": "assistant", "content": "4"},
    ]


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"max_token": 3}, "max_token", "unknown field; did you mean max_tokens?"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": "9"}, "max_tokens", "valid integer"),
        ({"temperature": -1}, "temperature", "greater than or equal to 0"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"seed": 0.5}, "seed", "valid integer"),
        ({"logprobs": 3}, "logprobs", "less than or equal to 0"),
        ({"frequency_penalty": 1}, "frequency_penalty", "only 0 is; leave it out"),
        ({"echo": True}, "echo", "only false is"),
        ({"prompt": 5}, "prompt", "a text, token ids, or a list"),
        ({"prompt": []}, "prompt", "at least 1 item"),
        ({"prompt": [5, "x", None]}, "prompt", "a text, token ids, or a list"),
        ({"stop": 5}, "stop", "a string, a list of strings, or an object with strings, probe, strength or budget"),
        ({"stop": [""]}, "stop.strings.0", "at least 1 character"),
        ({"stop": {"strenght": 2}}, "stop.strenght", "did you mean strength?"),
        ({"stop": {"strength": 0}}, "stop.strength", "greater than 0"),
        ({"stop": {"budget": -1}}, "stop.budget", "greater than or equal to 0"),
        ({"stop": {"budget": 1.5}}, "stop.budget", "valid integer"),
        ({"stop": {"probe": 0.5}}, "stop.probe", "is true, or an object with risk, threshold or uncertified"),
        ({"stop": {"probe": {"risk": 1}}}, "stop.probe.risk", "less than 1"),
        ({"stop": {"probe": {"level": 1}}}, "stop.probe.level", "there are risk, threshold, uncertified"),
        ({"stop": {"probe": True, "budget": 4}}, "stop", "probe goes with neither strength nor budget"),
        ({"stream_options": {"usage": True}}, "stream_options.usage", "there are include_usage"),
    ],
)
def test_what_cannot_be_names_its_field_and_says_what_can(fields, param, words):
    body = {"model": "m", "prompt": "x", **fields}
    with pytest.raises(ApiError) as caught:
        read_body(CompletionRequest, json.dumps(body).encode())
    assert (caught.value.status, caught.value.param) == (400, param)
    assert caught.value.message.startswith(f"{param}: ")
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"messages": []}, "messages", "at least 1 item"),
        ({"messages": [{"role": "usr", "content": "x"}]}, "messages.0.role", "'system', 'developer', 'user'"),
        ({"messages": [{"role": "user", "text": "x"}]}, "messages.0.text", "there are role, content, name"),
        ({"tools": [{}]}, "tools", "only [] is"),
        ({"top_logprobs": 3}, "top_logprobs", "only 0 is"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, None, "say different things"),
    ],
)
def test_what_cannot_be_in_a_chat(fields, param, words):
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], **fields}
    with pytest.raises(ApiError) as caught:
        read_body(ChatRequest, json.dumps(body).encode())
    assert (caught.value.status, caught.value.param) == (400, param)
    assert words in caught.value.message


@pytest.mark.parametrize("raw", [b"", b"nope", b"[]", b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_object_is_one_line(raw):
    with pytest.raises(ApiError, match=r"^the body is no"):
        read_body(ChatRequest, raw)


@pytest.mark.parametrize(
    ("prompt", "messages", "same"),
    [
        ({"template": "{prompt}", "system": None}, [("user", "2 + 2")], True),
        ({"template": "{prompt}", "system": None}, [("system", "s"), ("user", "2 + 2")], False),
        ({"template": "{prompt}", "system": "s"}, [("system", "s"), ("user", "2 + 2")], True),
        ({"template": "Q: {prompt}!", "system": None}, [("user", "Q: 2!")], True),
        ({"template": "Q: {prompt}!", "system": None}, [("user", "2!")], False),
        ({"template": "Q: {prompt}!", "system": None}, [("user", "Q: !")], False),
        ({"template": "{prompt}", "system": None}, [("user", "2"), ("assistant", "3"), ("user", "2")], False),
        ({"template": "{prompt}", "system": None}, [("assistant", "2")], False),
        ({"template": "{prompt}", "system": None, "variants": {"short": "s"}}, [("user", "2")], False),
        ({"template": "{prompt}", "system": None}, None, False),
    ],
)
def test_messages_are_those_of_a_template_or_not(prompt, messages, same):
    chat = messages and [{"role": role, "content": content} for role, content in messages]
    assert asked_as(prompt, chat) is same


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "m", "messages": [{"role": "user", "content": "\ud83d"}]}, "messages"),
        ({"model": "m\ude00", "messages": [{"role": "user", "content": "x"}]}, "model"),
        ({"model": "m", "messages": [{"role": "user", "content": "x"}], "\ud83d": 1}, r"\ud83d"),
    ],
)
def test_half_a_surrogate_pair_is_no_text(body, param):
    with pytest.raises(ApiError, match="holds half of a surrogate pair") as caught:
        read_body(ChatRequest, json.dumps(body).encode())
    assert (caught.value.status, caught.value.param) == (400, param)
    json.dumps(caught.value.body(), ensure_ascii=False).encode()
    whole = {"model": "m", "messages": [{"role": "user", "content": "\U0001f600"}]}
    assert read_body(ChatRequest, json.dumps(whole).encode()).messages[0].content == "\U0001f600"


def test_the_problems_that_a_risk_needs_count_the_shift_of_the_certificate():
    guarantee = certify([float("-inf")] * 200, 0.2, 0.9, shift=4)
    certificate = Certificate(guarantee, None, (), {"bad_scores": []}, {"sources": [], "levels": []})
    ask, asked = StopAsk(probe={"risk": 0.01}), Asked(8, SamplingOptions(), None)
    with pytest.raises(ApiError, match=r"risk: 0\.01 needs 920 calibration problems, the certificate rests on 200"):
        Policies(TOKENS, True, Exits(None, None, certificate, "")).choose(ask, asked)


def test_a_request_does_not_hash_the_probe(tmp_path, monkeypatch):
    shipped = find_content("eval/stopping/tiny-probe/probe.json").parent
    for name in ("probe.json", "probe.safetensors"):
        (tmp_path / name).write_bytes((shipped / name).read_bytes())
    card = json.loads((tmp_path / "probe.json").read_text())
    made_with = Fingerprint(**card["fingerprint"])
    sampling = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": 8}
    prompt = {"template": "{prompt}", "system": None}
    parts = (card["probe"], card["cues"], card["elicitor"], prompt, sampling, "exact/box", "</think>")
    guarantee = certify([float("-inf")] * 48, 0.1, 0.9)
    held = Conditions(made_with, *parts)
    save_certificate(tmp_path, Certificate(guarantee, held, (), {"bad_scores": []}, {"sources": [], "levels": []}))
    exits = open_exits(tmp_path, made_with)
    monkeypatch.setattr(Probe, "digest", lambda self: pytest.fail("hashed again"))
    asked = Asked(8, SamplingOptions(1.0, 1.0, 0), [{"role": "user", "content": "1 + 1"}])
    assert Policies(TOKENS, True, exits).choose(StopAsk(probe=True), asked).says["probe"]["certified"] is True
