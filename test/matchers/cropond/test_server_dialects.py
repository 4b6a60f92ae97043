"""Each kind of server is asked in its own dialect, declared or found out, and not forced to lie."""
from __future__ import annotations

import base64
import re

import cv2
import numpy as np
import pytest
from openai_server import (
    BEFORE,
    MODEL,
    FakeOpenAIServer,
    ServerBehaviour,
    compile_grammar,
    make_llama_server,
    make_ollama,
    make_openai,
)

pytest.importorskip('PIL')
try:
    from crosspoint_ros.matchers.cropond.remote import CropondRemoteMatcher
except ImportError as missing:
    pytest.skip(str(missing), allow_module_level=True)
from crosspoint_ros.core.datatypes import Code, Intrinsics, Query, Rejected, View
from crosspoint_ros.matchers.cropond.image_processor import TRAINED_MAX_PIXELS
from crosspoint_ros.matchers.cropond.prompt import CoordinateFormat, ReplyTemplate
from crosspoint_ros.matchers.cropond.server import point_client
from crosspoint_ros.matchers.cropond.server.protocol import (
    ImageEncoder,
    build_grammar,
    build_reply_regex,
    encode_image,
    parse_ollama,
)

CLICK = np.array([200.0, 120.0])


def make_sglang(**how) -> ServerBehaviour:
    return ServerBehaviour(fields={
        'regex', 'repetition_penalty', 'add_generation_prompt', 'continue_final_message',
        'logprobs', 'top_logprobs'}, owner='sglang', **how)


def make_vllm(**how) -> ServerBehaviour:
    return ServerBehaviour(**how)


def free_json(x: str, y: str) -> str:
    return f'{{"point_2d": [{x}, {y}]}}'


# name -> the double, and what it supports by the name of the field
SERVERS = {'vllm': (make_vllm, 'structured_outputs, prefill, logprobs'),
           'sglang': (make_sglang, 'regex, prefill, logprobs'),
           'llama_cpp': (make_llama_server, 'grammar, prefill, logprobs'),
           'ollama': (make_ollama, 'response_format, logprobs'),
           'openai': (make_openai, 'response_format, logprobs')}
both_ways = pytest.mark.parametrize(('name', 'is_declared'), [
    (name, is_declared) for name in SERVERS for is_declared in (True, False)])


@pytest.fixture
def start():
    """Start servers, and end them."""
    started: list[FakeOpenAIServer] = []

    def begin(behaviour: ServerBehaviour) -> FakeOpenAIServer:
        started.append(FakeOpenAIServer(behaviour))
        return started[-1]

    yield begin
    for server in started:
        server.stop()


def make_view(camera: str, seed: int) -> View:
    image = np.random.default_rng(seed).integers(0, 256, (240, 320, 3)).astype(np.uint8)
    return View(camera, image, Intrinsics(300.0, 300.0, 160.0, 120.0, 320, 240))


@pytest.fixture
def query() -> Query:
    return Query(make_view('a', 1), make_view('b', 2), CLICK)


def connect(server: FakeOpenAIServer, kind: str, **options) -> CropondRemoteMatcher:
    return CropondRemoteMatcher(**{'url': server.url, 'model': MODEL, 'deadline_s': 5.0,
                                   'server': kind, 'coordinates': 'relative_1000',
                                   'self_test': False, **options})


@both_ways
def test_each_server_answers_a_click_in_its_own_dialect(start, query, name, is_declared):
    make, features = SERVERS[name]
    server = start(make())
    matcher = connect(server, name if is_declared else 'auto')
    assert matcher.describe()['asked by'] == features
    match = matcher.match(query)
    np.testing.assert_allclose(match.pixel, CLICK, atol=1.0)
    assert match.confidence == pytest.approx(0.99 ** 4, abs=0.02)
    probes = len(server.find_requests('Name a number'))
    assert (probes <= 2) is (is_declared or name in ('llama_cpp', 'ollama'))  # by their owner


@both_ways
def test_a_model_that_says_it_is_not_visible_is_believed_through_each(
        start, query, name, is_declared):
    server = start(SERVERS[name][0]())
    matcher = connect(server, name if is_declared else 'auto')
    assert matcher.match(query)
    server.behaviour.free = lambda x, y: 'The point is not visible.'
    for _ in range(3):
        with pytest.raises(Rejected) as refused:
            matcher.match(query)
        assert refused.value.code == Code.NOT_VISIBLE


def test_a_server_that_still_loads_is_waited_for_at_the_start(start, query, caplog):
    server = start(make_vllm(faults=3 * ['503']))
    caplog.set_level('INFO')
    matcher = connect(server, 'vllm', wait_s=30.0)
    assert matcher.describe()['state'] == 'ready'
    assert 'waiting for the server' in caplog.text
    assert 'scripted 503' in caplog.text
    server.behaviour.always = '503'
    absent = connect(server, 'vllm', wait_s=1.5)
    assert 'scripted 503' in absent.describe()['state']
    server.behaviour.always = ''
    assert absent.match(query)


@pytest.mark.parametrize(('name', 'fields'), [
    ('vllm', {'structured_outputs', 'continue_final_message', 'add_generation_prompt',
              'repetition_penalty'}),
    ('sglang', {'regex', 'continue_final_message', 'add_generation_prompt', 'repetition_penalty'}),
    ('llama_cpp', {'grammar', 'repeat_penalty'})])
def test_a_forced_question_has_the_fields_of_its_server_and_no_others(start, query, name, fields):
    server = start(SERVERS[name][0]())
    connect(server, name).match(query)
    (forced,) = server.forced
    assert forced.keys() == fields | {'model', 'messages', 'temperature', 'stream', 'max_tokens',
                                      'logprobs', 'top_logprobs'}
    assert forced['messages'][-1] == {'role': 'assistant', 'content': BEFORE}


@pytest.mark.parametrize('name', ['ollama', 'openai'])
def test_a_schema_is_used_where_the_model_itself_replies_in_bare_json(start, query, name):
    fenced, bare = start(SERVERS[name][0]()), start(SERVERS[name][0](free=free_json))
    for server in (fenced, bare):
        np.testing.assert_allclose(connect(server, name).match(query).pixel, CLICK, atol=1.0)
    # A schema would keep a model that fences its JSON from what it writes, or hide a refusal.
    assert fenced.forced == []
    (forced,) = bare.forced
    schema = forced['format'] if name == 'ollama' else forced['response_format'][
        'json_schema']['schema']
    assert schema['properties']['point_2d']['maxItems'] == 2
    bare.behaviour.free = lambda x, y: 'It is hidden.'
    with pytest.raises(Rejected, match='It is hidden'):
        connect(bare, name).match(query)


@pytest.mark.parametrize('name', ['ollama', 'openai'])
@pytest.mark.parametrize('own', ['{{"point": [{x}, {y}]}}', '{{"points": [[{x}, {y}]]}}',
                                 '{{"point_2d": {{"x": {x}, "y": {y}}}}}'])
def test_a_model_with_another_key_is_not_forced_to_ours(start, query, name, own):
    server = start(SERVERS[name][0](free=lambda x, y: own.format(x=x, y=y)))
    matcher = connect(server, name)
    np.testing.assert_allclose(matcher.match(query).pixel, CLICK, atol=1.0)
    assert server.forced == []


def test_ollama_gets_both_images_in_one_message_of_its_own_protocol(start, query):
    server = start(make_ollama())
    connect(server, 'auto').match(query)
    images = [part for part in server.requests[-1]['messages'][-1]['content']
              if part['type'] == 'image_url']
    assert len(images) == 2
    assert not any(request['messages'][-1]['role'] == 'assistant' for request in server.requests)


def test_the_newer_limit_of_openai_is_used_from_the_second_request_on(start, query):
    server = start(make_openai())
    matcher = connect(server, 'openai')
    before = len(server.requests)
    matcher.match(query)
    assert all('max_tokens' not in request for request in server.requests[before:])
    assert server.requests[-1]['max_completion_tokens'] == 96


@pytest.mark.parametrize('repeats', [False, True])
def test_a_reply_is_read_with_or_without_the_beginning_that_was_given(start, query, repeats):
    server = start(make_llama_server(repeats=repeats))
    match = connect(server, 'llama_cpp').match(query)
    np.testing.assert_allclose(match.pixel, CLICK, atol=1.0)


def test_a_server_that_ignores_the_grammar_it_is_declared_to_have_is_refused(start, query):
    server = start(make_llama_server())
    matcher = connect(server, 'llama_cpp')
    server.behaviour.ignores = {'grammar'}
    server.behaviour.answer = lambda x, y: ('left', 'top')
    with pytest.raises(Rejected, match='not in the requested format') as refused:
        matcher.match(query)
    assert refused.value.code == Code.MATCHER_FAILED


def test_an_unknown_kind_of_server_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match='vllm, sglang, llama_cpp, ollama, openai'):
        CropondRemoteMatcher(server='tgi')


def make_writer(p_x: np.ndarray, p_y: np.ndarray):
    """Return a model that writes a point by the distributions of its numbers, digit by digit."""
    numbers = np.array([str(v) for v in range(1000)])

    def write_number(p: np.ndarray, begun: str, end: str) -> dict[str, float]:
        mass = {d: p[np.char.startswith(numbers, begun + d)].sum() for d in '0123456789'}
        mass[end] = p[numbers == begun].sum()
        return {text: float(m / sum(mass.values())) for text, m in mass.items()}

    def write(reply: str, _request: dict) -> dict[str, float]:
        if not reply.startswith(BEFORE):
            return {BEFORE[len(reply):]: 1.0}
        first, comma, second = reply.removeprefix(BEFORE).partition(', ')
        if not comma:
            return write_number(p_x, first, ', ')
        return {'': 1.0} if second.endswith(']') else write_number(p_y, second, ']')

    return write


def test_the_confidence_is_that_of_the_whole_distribution(start, query):
    """As `cropond` computes it from the same model: at 499 or 500 half of it begins otherwise."""
    v = np.arange(1000)
    p_x, p_y = (np.exp(-((v - centre) / 3) ** 2 / 2) for centre in (499.5, 345.0))
    p_x, p_y = p_x / p_x.sum(), p_y / p_y.sum()
    make, _ = SERVERS['vllm']
    server = start(make(writes=make_writer(p_x, p_y)))
    matcher = connect(server, 'vllm')
    before = len(server.requests)
    match = matcher.match(query)
    others = server.requests[before + 2:]  # after the question and its check
    assert [request['messages'][-1]['content'].removeprefix(BEFORE) for request in others] in (
        ['5'], ['4'])  # one more, begun with the other hundreds
    reply = int(np.argmax(p_x))
    near = [p[np.abs(v - mode) <= 0.025 * 1000].sum() for p, mode in ((p_x, reply), (p_y, 345))]
    assert match.confidence == pytest.approx(near[0] * near[1], abs=0.02)
    np.testing.assert_allclose(match.pixel, (499.5 * 0.32, 345 * 0.24), atol=0.5)


def start_between_hundreds(start, **options):
    """Return a server whose model hesitates between 499 and 500, and the matcher on it."""
    v = np.arange(1000)
    p_x, p_y = (np.exp(-((v - centre) / 3) ** 2 / 2) for centre in (499.5, 345.0))
    server = start(SERVERS['vllm'][0](writes=make_writer(p_x / p_x.sum(), p_y / p_y.sum())))
    return server, connect(server, 'vllm', **options)


@pytest.mark.parametrize('fault', ['503', '429', 'silent', 'cut'])
def test_a_failure_to_ask_for_other_digits_leaves_the_answer_with_a_lower_bound(
        start, query, caplog, fault):
    server, matcher = start_between_hundreds(start, deadline_s=2.0)
    whole, count = matcher.match(query).confidence, len(server.requests)
    server.behaviour.faults = ['', '', fault]  # of the question, its check, and the other hundreds
    match = matcher.match(query)
    assert len(server.requests) == count + 3
    np.testing.assert_allclose(match.pixel, (499.5 * 0.32, 345 * 0.24), atol=1.5)
    assert 0.3 < match.confidence < whole - 0.2
    assert 'the confidence is a lower bound' in caplog.text
    assert matcher.describe()['state'] == 'ready'


def test_other_digits_are_not_asked_for_when_little_time_is_left(start, query, monkeypatch):
    server, matcher = start_between_hundreds(start)
    whole, count = matcher.match(query).confidence, len(server.requests)
    monkeypatch.setattr(point_client, 'MIN_BRANCH_SHARE', 1.0)  # all the time there was
    assert matcher.match(query).confidence < whole - 0.2
    assert len(server.requests) == count + 2  # the question and its check


TEMPLATES = [ReplyTemplate(), ReplyTemplate('<point x="', '" y="', '"')]


@pytest.mark.parametrize('template', TEMPLATES, ids=['json', 'tag'])
@pytest.mark.parametrize('coord_format', CoordinateFormat)
@pytest.mark.parametrize('is_prefilled', [False, True])
def test_a_grammar_allows_what_the_regular_expression_allows(template, coord_format, is_prefilled):
    form = (template, coord_format, 3, is_prefilled)
    regex, grammar = re.compile(build_reply_regex(*form)), compile_grammar(build_grammar(*form))
    numbers = ['0', '7', '42', '999', '1000', '007', '-1', '--1', '0.512', '0.5', '.5', '51.2',
               '51.25', '51.255', '100', '', 'x', '-0.100']
    allowed = 0
    for x in numbers:
        for closing in ('', '}]\n```', '}, {"a": 1', '"/>', '         '):
            reply = f'{"" if is_prefilled else template.before}{x}{template.between}{x}' \
                f'{template.after}{closing}'
            assert bool(regex.fullmatch(reply)) == bool(grammar.fullmatch(reply)), reply
            allowed += bool(regex.fullmatch(reply))
    assert 3 < allowed < len(numbers) * 3


@pytest.mark.parametrize('body', [b'[]', b'{"message": []}', b'{"error": "no such model"}',
                                  b'{"message": {"content": "1"}, "logprobs": [{"token": 3}]}'])
def test_what_is_no_reply_of_ollama_is_an_error(body):
    with pytest.raises(ValueError):  # noqa: PT011
        parse_ollama(body)


# --- images

def get_url(encoded) -> str:
    return encoded.message_part['image_url']['url']


def decode(url: str) -> tuple[str, np.ndarray]:
    kind, _, data = url.partition(';base64,')
    image = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    return kind, image[..., ::-1]


def test_a_large_image_is_sent_as_jpeg_and_a_small_one_exactly():
    smooth = np.zeros((476, 644, 3), np.uint8)
    smooth[..., 0] = np.arange(644) % 256
    noise = np.random.default_rng(0).integers(0, 256, smooth.shape, dtype=np.uint8)
    photo = cv2.addWeighted(smooth, 0.7, cv2.GaussianBlur(noise, (0, 0), 0.7), 0.3, 0)
    kind, image = decode(get_url(encode_image(smooth, TRAINED_MAX_PIXELS)))
    assert kind == 'data:image/png'
    np.testing.assert_array_equal(image, smooth)
    as_jpeg, as_png = (get_url(encode_image(photo, TRAINED_MAX_PIXELS, quality))
                       for quality in (95, 0))
    kind, image = decode(as_jpeg)
    assert kind == 'data:image/jpeg'
    assert np.abs(image.astype(float) - photo).mean() < 8
    assert decode(as_png)[0] == 'data:image/png'
    assert len(as_png) > 400_000  # of base64
    assert 2 * len(as_jpeg) < 1_000_000 < 2 * len(as_png) + 200_000


def test_the_quality_is_an_option(start, query):
    server = start(make_vllm())
    noise = np.random.default_rng(0).integers(0, 256, (476, 644, 3), dtype=np.uint8)
    large = View('a', noise, Intrinsics(300.0, 300.0, 160.0, 120.0, 644, 476))
    for quality, kind in ((95, 'image/jpeg'), (0, 'image/png')):
        connect(server, 'vllm', jpeg_quality=quality).match(Query(large, query.other, CLICK))
        part = server.requests[-1]['messages'][1]['content'][0]
        assert part['image_url']['url'].startswith(f'data:{kind}')
    assert get_url(ImageEncoder(TRAINED_MAX_PIXELS).encode(noise)).startswith('data:image/jpeg')
    with pytest.raises(ValueError, match='jpeg_quality must be 0'):
        connect(server, 'vllm', jpeg_quality=101)
