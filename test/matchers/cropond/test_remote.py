"""The matcher on a server, against a scripted double that has no model but repeats the click."""
from __future__ import annotations

import json
import logging
import math
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from openai_server import (
    MODEL,
    TOKEN,
    FakeOpenAIServer,
    ServerBehaviour,
    make_transformers_serve,
)

pytest.importorskip('PIL')
try:
    from crosspoint_ros.matchers.cropond.server.http_client import ChatClient, Deadline
except ImportError as missing:
    pytest.skip(str(missing), allow_module_level=True)
from crosspoint_ros.core.datatypes import (
    Code,
    Grounder,
    Intrinsics,
    Match,
    Query,
    Rejected,
    SupportsDescribe,
    SupportsPrefetch,
    View,
)
from crosspoint_ros.core.pipeline import locate
from crosspoint_ros.core.verify import Limits, validate_match
from crosspoint_ros.matchers import load_matcher
from crosspoint_ros.matchers.cropond.coordinate_distribution import TokenLogprobs
from crosspoint_ros.matchers.cropond.prompt import CoordinateFormat, ReplyTemplate
from crosspoint_ros.matchers.cropond.remote import CropondRemoteMatcher
from crosspoint_ros.matchers.cropond.server.capabilities import find_capabilities
from crosspoint_ros.matchers.cropond.server.point_client import (
    infer_template,
    measure_template_probability,
)
from crosspoint_ros.matchers.cropond.server.protocol import Completion

CLICK = np.array([200.0, 120.0])
# How a CroPond may write; the double replies so when nothing constrains it.
FREE = '```json\n[\n\t{"point_2d": ['


def view(camera: str, seed: int, width: int = 320, height: int = 240) -> View:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    intrinsics = Intrinsics(300.0, 300.0, width / 2, height / 2, width, height)
    return View(camera, image, intrinsics)


@pytest.fixture
def query() -> Query:
    return Query(view('a', 1), view('b', 2), CLICK)


@pytest.fixture
def start():
    """Start servers and matchers on them, and end what was started."""
    started: list = []

    def begin(behaviour: ServerBehaviour | None = None, port: int = 0) -> FakeOpenAIServer:
        started.append(FakeOpenAIServer(behaviour, port))
        return started[-1]

    yield begin
    for server in started:
        if not server.stopped.is_set():
            server.stop()


@pytest.fixture
def server(start) -> FakeOpenAIServer:
    return start()


@pytest.fixture
def asked(server) -> CropondRemoteMatcher:
    return matcher(server)


def matcher(server: FakeOpenAIServer, **options) -> CropondRemoteMatcher:
    return CropondRemoteMatcher(**{'url': server.url, 'model': MODEL, 'deadline_s': 5.0,
                                   'coordinates': 'relative_1000', 'self_test': False,
                                   'allow_repeating': True,  # all that these servers do
                                   **options})


def refusal(asked: CropondRemoteMatcher, query: Query) -> Rejected:
    with pytest.raises(Rejected) as caught:
        asked.match(query)
    return caught.value


# --- what it does with a server that does well

def test_it_is_a_matcher_that_grounds_warms_and_describes_itself(server):
    loaded = load_matcher('cropond_remote', url=server.url, model=MODEL,
                          allow_repeating=True)
    assert isinstance(loaded, Grounder)
    assert isinstance(loaded, SupportsPrefetch)
    assert isinstance(loaded, SupportsDescribe)
    assert loaded.refined_by == 'xfeat'


def test_a_click_is_answered_at_the_place_that_the_server_names(start, query):
    match = matcher(start()).match(query)
    validate_match(match, None)
    # thousandths: 200 of 320 is 625, 120 of 240 is 500
    np.testing.assert_allclose(match.pixel, CLICK, atol=1.0)
    assert match.confidence == pytest.approx(0.99 ** 4, abs=0.02)  # the hundreds and tens of x, y
    assert np.linalg.eigvalsh(match.covariance_px2).min() > 0


def test_thousandths_and_pixels_are_told_apart(start, query):
    asked = matcher(start(), coordinates='auto', self_test=True)
    assert asked.describe()['coordinates'] == 'relative_1000'


def test_an_unsure_server_makes_an_unsure_match(start, query):
    sure, unsure = start(), start(ServerBehaviour(sure=0.6))
    confidences = [matcher(server).match(query).confidence for server in (sure, unsure)]
    spreads = [np.trace(matcher(server).match(query).covariance_px2) for server in (sure, unsure)]
    assert confidences[1] < 0.5 < confidences[0]
    assert spreads[0] < spreads[1]


def test_images_come_first_and_nothing_may_punish_repeated_digits(server, query):
    matcher(server).match(query)
    click = server.forced[-1]
    parts = click['messages'][1]['content']
    assert [part['type'] for part in parts] == ['image_url', 'image_url', 'text']
    assert '[625, 500]' in parts[2]['text']
    assert parts[0]['image_url']['url'].startswith('data:image/png;base64,')
    assert all(request['repetition_penalty'] == 1.0 for request in server.requests[1:])
    assert all(request['temperature'] == 0 for request in server.requests)


def test_the_reply_is_begun_and_held_to_its_form(server, query):
    matcher(server).match(query)
    click = server.forced[-1]
    assert click['messages'][-1] == {'role': 'assistant', 'content': FREE}
    assert click['continue_final_message'] is True
    assert click['add_generation_prompt'] is False
    assert click['structured_outputs']['regex'].startswith('-?(0|[1-9][0-9]{0,2}), -?(0|')


def test_warming_sends_the_images_before_the_click(server, asked, query):
    asked.warm((query.clicked, query.other))
    assert server.requests[-1]['max_tokens'] == 1
    before = len(server.requests)
    asked.warm((query.clicked, query.other))
    assert len(server.requests) == before
    moved = view('b', 5)
    asked.warm((query.clicked, moved))  # of one that has moved, only that
    assert len(server.requests) == before + 1
    assert asked.match(query)


def test_warming_is_no_way_to_look_for_a_server_that_is_away(server, asked, start, query, caplog):
    server.stop()
    asked.warm((query.clicked, query.other))
    assert 'frames were not prefetched' in caplog.text
    successor = start(port=server.port)
    asked.warm((query.clicked, query.other))
    assert successor.requests == []
    assert asked.match(query)


def test_many_clicks_on_one_pair_go_out_at_once(server, query):
    clicks = [CLICK + np.array([10 * n, 0]) for n in range(6)]
    found = matcher(server).match_all([Query(query.clicked, query.other, c) for c in clicks])
    np.testing.assert_allclose([m.pixel for m in found], clicks, atol=1.0)


def test_three_other_cameras_are_asked_at_once(server, asked, query):
    others = [view(name, seed) for seed, name in enumerate('bcd', 2)]
    asked.match(query)  # the handshake is over
    server.most_in_progress, server.behaviour.together = 0, 6  # the questions and their checks
    result = locate(query.clicked, others, CLICK, asked, Limits())
    assert server.most_in_progress == 6
    assert [found.camera for found in result.correspondences] == ['b', 'c', 'd']
    for found in result.correspondences:
        np.testing.assert_allclose(found.match.pixel, CLICK, atol=1.0)


def test_clicks_of_several_threads_are_asked_at_once(server, asked, query):
    asked.match(query)
    server.most_in_progress, server.behaviour.together = 0, 8
    clicks = [CLICK + np.array([10 * n, 0]) for n in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda c: asked.match(Query(query.clicked, query.other, c)), clicks))
    assert server.most_in_progress == 8
    np.testing.assert_allclose([m.pixel for m in found], clicks, atol=1.0)


def test_three_other_cameras_have_one_deadline_and_the_server_is_examined_once(server, query):
    asked = matcher(server, deadline_s=1.0)
    others = [view(name, seed) for seed, name in enumerate('bcd', 2)]
    server.behaviour.always = 'silent'
    begun_s = time.monotonic()
    result = locate(query.clicked, others, CLICK, asked, Limits())
    assert time.monotonic() - begun_s < 3  # of three deadlines in turn
    assert {found.rejected.code for found in result.correspondences} == {Code.TIMEOUT}
    server.behaviour.always, server.behaviour.faults = '', 2 * ['500']
    before = len(server.find_requests('Name a number'))
    result = locate(query.clicked, others, CLICK, asked, Limits())
    assert any(found.rejected and found.rejected.code == Code.MATCHER_FAILED
               for found in result.correspondences)
    assert asked.describe()['state'] == 'ready'  # one failed click, however many cameras
    assert locate(query.clicked, others, CLICK, asked, Limits()).correspondences[0].match
    assert len(server.find_requests('Name a number')) == before


def test_a_camera_about_which_the_server_fails_leaves_the_others(server, asked, query):
    asked.match(query)
    thin = view('thin', 3, 3000, 10)  # no model takes it
    result = locate(query.clicked, [query.other, thin, view('d', 4)], CLICK, asked, Limits())
    assert [found.match is not None for found in result.correspondences] == [True, False, True]
    assert result['thin'].rejected.code == Code.BAD_REQUEST


def test_an_instruction_is_grounded_in_one_image(start, query):
    server = start(ServerBehaviour(answer=lambda x, y: ('500', '250')))
    asked = matcher(server)
    named = asked.ground(query.clicked, 'the drawer handle')
    np.testing.assert_allclose(named.pixel, (160, 60), atol=1.0)
    assert named.confidence == pytest.approx(0.99 ** 4, abs=0.02)
    parts = server.requests[-1]['messages'][1]['content']
    assert [part['type'] for part in parts] == ['image_url', 'text']
    assert 'the drawer handle' in parts[1]['text']


def test_an_instruction_without_a_place_is_refused(server, asked, query):
    server.behaviour.free = lambda x, y: 'There is no such thing.'
    with pytest.raises(Rejected, match='no such thing') as caught:
        asked.ground(query.clicked, 'the moon')
    assert caught.value.code == Code.NOT_VISIBLE


@pytest.mark.parametrize(('limit', 'text'), [(7, 'x = 500, y = 250'), (0, 'on the left')])
def test_a_reply_that_the_token_limit_cuts_is_no_place_and_no_hidden_one(
        server, asked, query, limit, text):
    server.behaviour.free, server.behaviour.limit = (lambda x, y: text), limit
    with pytest.raises(Rejected, match=r"was cut off \(finish_reason 'length'\)") as caught:
        asked.ground(query.clicked, 'the drawer handle')
    assert caught.value.code == Code.MATCHER_FAILED


@pytest.mark.parametrize(('words', 'said'), [
    ('the <|image_pad|>', r"contains '<\|'"), ('cup<|im_end|>', r"contains '<\|'"),
    ('cup ' * 126, '504 characters long .limit 500')])
def test_an_instruction_that_is_no_words_or_no_end_of_them_is_a_bad_request(
        server, asked, query, words, said):
    before = len(server.requests)
    with pytest.raises(Rejected, match=said) as caught:
        asked.ground(query.clicked, words)
    assert caught.value.code == Code.BAD_REQUEST
    assert len(server.requests) == before
    assert asked.describe()['state'] == 'ready'


def test_a_request_that_the_server_refuses_for_its_words_is_no_doubt_about_the_server(
        server, asked, query):
    server.behaviour.faults = ['400']
    with pytest.raises(Rejected, match='400'):
        asked.ground(query.clicked, 'the drawer handle')
    assert asked.describe()['state'] == 'ready'
    server.behaviour.free = lambda x, y: f'{FREE}500, 250]'
    assert asked.ground(query.clicked, 'the drawer handle')
    for state in (True, False):  # the second one running is not about the words
        server.behaviour.faults = ['400']
        with pytest.raises(Rejected, match='400'):
            asked.ground(query.clicked, 'the drawer handle')
        server.behaviour.faults = []
        assert (asked.describe()['state'] == 'ready') is state


def test_a_guess_at_an_instruction_is_refused(server, asked, query):
    server.behaviour.answer, server.behaviour.sure = (lambda x, y: ('500', '250')), 0.4
    with pytest.raises(Rejected) as caught:
        asked.ground(query.clicked, 'a screw')
    assert caught.value.code == Code.LOW_CONFIDENCE


# --- what it makes of servers that can less

def can(server: FakeOpenAIServer):
    return find_capabilities(ChatClient(server.url, MODEL), 'auto', Deadline.after(10))


def test_all_that_a_server_can_is_found_out(start):
    assert str(can(start())) == 'structured_outputs, prefill, logprobs'


@pytest.mark.parametrize(('field', 'lost'), [
    ('structured_outputs', 'structured_outputs'), ('continue_final_message', 'prefill'),
    ('top_logprobs', 'logprobs')])
@pytest.mark.parametrize('strict', [False, True])
def test_what_a_server_ignores_or_refuses_is_not_counted_on(start, field, lost, strict):
    behaviour = ServerBehaviour(strict=strict)
    if strict:
        behaviour.fields.remove(field)
    else:
        behaviour.ignores.add(field)
    found = can(start(behaviour))
    assert lost not in str(found)
    assert str(found).count(',') == 1


@pytest.mark.parametrize('field', ['structured_outputs', 'regex', 'guided_regex', 'grammar',
                                   'response_format'])
def test_each_dialect_of_constraints_is_understood(start, field):
    behaviour = ServerBehaviour(strict=True)
    behaviour.fields = {field, 'repetition_penalty'}
    assert can(start(behaviour)).constraint == field


def test_a_server_like_transformers_serve_is_asked_in_free_text(start, query):
    server = start(make_transformers_serve())
    match = matcher(server).match(query)
    np.testing.assert_allclose(match.pixel, CLICK, atol=1.0)
    assert server.requests[-1].keys() == {'model', 'messages', 'temperature', 'stream',
                                          'max_tokens', 'frequency_penalty'}


def test_without_probabilities_a_match_is_refused_with_words_unless_it_is_said_what_it_is_worth(
        start, query):
    server = start(make_transformers_serve())
    (refused,) = locate(query.clicked, [query.other], CLICK, matcher(server),
                        Limits()).correspondences
    assert np.isnan(refused.match.covariance_px2).all()
    assert refused.rejected.code == Code.LOW_CONFIDENCE
    assert 'returns no log-probabilities' in refused.rejected.message
    worth = matcher(server, confidence_unknown=0.6)
    (taken,) = locate(query.clicked, [query.other], CLICK, worth, Limits()).correspondences
    assert taken.rejected is None
    assert taken.match.confidence == 0.6
    with pytest.raises(Rejected, match='returns no log-probabilities'):
        matcher(server).ground(query.clicked, 'the drawer handle')
    assert worth.ground(query.clicked, 'the drawer handle').confidence == 0.6


def test_without_probabilities_a_refiner_that_finds_the_same_confirms_it(start, query):
    class Fine:
        """DOUBLE of a refiner that finds a place by itself."""

        def __init__(self, pixel):
            self.pixel = pixel

        def match(self, query):
            return Match(self.pixel, np.eye(2), 0.6)

        def refine(self, query, near):
            raise Rejected(Code.NOT_VISIBLE, 'nothing near')

    asked, limits = matcher(start(make_transformers_serve())), Limits()
    (same,), (other,) = (locate(query.clicked, [query.other], CLICK, asked, limits,
                                refiner=Fine(pixel)).correspondences
                         for pixel in (CLICK, CLICK / 4))
    assert same.rejected is None
    assert same.match.confidence > 0.75 > 0.6  # what it was by itself
    assert other.rejected.code == Code.LOW_CONFIDENCE


def test_a_constraint_without_a_begun_reply_covers_the_whole_of_it(start, query):
    server = start(ServerBehaviour(ignores={'continue_final_message'}))
    np.testing.assert_allclose(matcher(server).match(query).pixel, CLICK, atol=1.0)
    assert server.forced[-1]['structured_outputs']['regex'].startswith('```json')
    assert server.forced[-1]['messages'][-1]['role'] == 'user'


def test_a_begun_reply_without_a_constraint_is_read_too(start, query):
    server = start(ServerBehaviour(ignores={'structured_outputs'}))
    np.testing.assert_allclose(matcher(server).match(query).pixel, CLICK, atol=1.0)
    assert 'structured_outputs' not in server.requests[-1]


def test_a_reply_that_leaves_its_form_makes_the_server_be_examined_anew(server, asked, query):
    server.behaviour.ignores.add('structured_outputs')
    server.behaviour.free = lambda x, y: f'Sure! It is at ({x}, {y}).'
    server.behaviour.ignores.add('continue_final_message')
    assert 'not in the requested format' in refusal(asked, query).message
    assert asked.describe()['state'] != 'ready'
    np.testing.assert_allclose(asked.match(query).pixel, CLICK, atol=1.0)
    assert asked.describe()['asked by'] == 'logprobs'


def test_what_follows_a_constrained_reply_is_a_breach_of_its_form(server, asked, query):
    server.behaviour.ignores.add('structured_outputs')
    server.behaviour.free = lambda x, y: f'{FREE}{x}, {y}], or rather [1, 1]'
    assert 'not in the requested format' in refusal(asked, query).message
    np.testing.assert_allclose(asked.match(query).pixel, CLICK, atol=1.0)


@pytest.mark.parametrize('said', [('-1', '-1'), ('412', '-1'), ('-1', '300')])
@pytest.mark.parametrize('behaviour', [ServerBehaviour, make_transformers_serve])
def test_numbers_with_a_sign_say_that_it_is_not_visible(start, query, behaviour, said):
    server = start(behaviour())
    asked = matcher(server)
    server.behaviour.answer = lambda x, y: said
    server.behaviour.free = lambda x, y: f'{FREE}{", ".join(said)}]'
    refused = refusal(asked, query)
    assert refused.code == Code.NOT_VISIBLE
    assert (f'({said[0]}, {said[1]}): negative coordinates mean that the point is not visible'
            in refused.message)


UNSEEN = 'The point is not visible in the second image.'


@pytest.mark.parametrize('unseen', [UNSEEN, '```json\n[]\n```', '```json\n[\n\t{"point_2d": null}'])
@pytest.mark.parametrize('fields', [
    (), ('continue_final_message', 'add_generation_prompt'), ('structured_outputs',),
    ('top_logprobs', 'logprobs')])
def test_what_the_model_would_not_say_by_itself_is_no_answer(start, query, unseen, fields):
    """The reply is begun and held to a form: both hide that the model names no point."""
    behaviour = ServerBehaviour()
    behaviour.fields -= set(fields)
    server = start(behaviour)
    asked = matcher(server)
    assert asked.match(query)
    server.behaviour.free = lambda x, y: unseen
    count = len(server.forced)
    refused = refusal(asked, query)
    assert refused.code == Code.NOT_VISIBLE
    assert 'the model replied' in refused.message
    assert len(server.forced) > count  # whose numbers are not read


def test_a_model_that_rarely_begins_so_is_less_sure(start, query):
    """Confidence counts the replies that would name no point."""
    server = start()
    asked = matcher(server)
    sure = asked.match(query).confidence

    def hesitate(text: str) -> dict:
        tokens = [{'token': t, 'logprob': 0.0, 'top_logprobs': [{'token': t, 'logprob': 0.0}]}
                  for t in TOKEN.findall(text)]
        if text.startswith(FREE):
            tokens[0] |= {'logprob': math.log(0.6), 'top_logprobs': [
                {'token': 'The', 'logprob': math.log(0.4)}]}
        return {'content': tokens}

    server.behaviour.tokens = hesitate
    assert asked.match(query).confidence == pytest.approx(0.6, abs=0.01)
    assert sure > 0.9


def test_without_a_beginning_the_reply_is_not_begun(start, query):
    """An empty one would have the server go on with the question."""
    server = start(ServerBehaviour(free=lambda x, y: f'{x}, {y}\n'))
    asked = matcher(server)
    np.testing.assert_allclose(asked.match(query).pixel, CLICK, atol=1.0)
    assert all('continue_final_message' not in request
               for request in server.find_requests('first image'))


def test_an_end_is_no_digit_and_leading_blanks_are_the_servers():
    template = ReplyTemplate('[', ', ', ']')
    choices = {'5': math.log(0.5), '': math.log(0.5)}
    for lead in ('', ' '):
        begun = Completion('[5', (*((TokenLogprobs(lead, {lead: 0.0}),) if lead else ()),
                                  TokenLogprobs('[', {'[': math.log(0.8)}),
                                  TokenLogprobs('5', choices)))
        assert measure_template_probability(begun, template) == pytest.approx(0.4)


def test_a_reply_in_other_words_is_read_as_it_is(start, query):
    server = start()
    asked = matcher(server)
    server.behaviour.free = lambda x, y: f'It is the handle at [{x}, {y}].'
    server.behaviour.answer = lambda x, y: ('300', '400')
    match = asked.match(query)
    np.testing.assert_allclose(match.pixel, (96, 96), atol=1.0)
    assert server.requests[-1]['messages'][-1]['role'] == 'user'
    assert 'structured_outputs' not in server.requests[-1]


@pytest.mark.parametrize('said', ['0.625, 0.5', '62.5, 50'])
def test_fractions_are_no_thousandths(start, query, said):
    server = start(make_transformers_serve())
    asked = matcher(server)
    server.behaviour.free = lambda x, y: f'[{said}]'
    refused = refusal(asked, query)
    assert refused.code == Code.MATCHER_FAILED
    assert 'relative_1000 has whole numbers' in refused.message


@pytest.mark.parametrize('logprobs', [None, [], {}, {'content': None}, {'content': []},
                                      {'content': [{'token': '6', 'logprob': -0.1}]}])
def test_without_the_probabilities_that_it_had_a_match_is_not_sure(server, asked, query, logprobs):
    server.behaviour.tokens = lambda text: logprobs
    match = asked.match(query)
    np.testing.assert_allclose(match.pixel, CLICK, atol=1.0)
    assert match.confidence == asked.options.confidence_unknown


def test_the_form_that_the_model_uses_by_itself_is_learnt(start, query):
    server = start(ServerBehaviour(free=lambda x, y: f'<point>[{x},{y}]</point>'))
    asked = matcher(server)
    np.testing.assert_allclose(asked.match(query).pixel, CLICK, atol=1.0)
    assert server.forced[-1]['messages'][-1]['content'] == '<point>['
    assert '<point>[' in asked.describe()['template']


@pytest.mark.parametrize('reply', ['', 'I cannot see it.', '{"point_2d": [NaN, NaN]}',
                                   '{"point_2d": []}', '```json\n[]\n```'])
def test_a_reply_without_a_point_is_refused(start, query, reply):
    server = start(make_transformers_serve())
    asked = matcher(server)
    server.behaviour.free = lambda x, y: reply
    refused = refusal(asked, query)
    assert refused.code == Code.NOT_VISIBLE
    assert 'the model replied' in refused.message


# --- the self-test

def test_a_model_that_finds_nothing_is_refused_at_start(start):
    with pytest.raises(ValueError, match='failed its self-test'):
        matcher(start(ServerBehaviour(answer=lambda x, y: ('1', '1'))), self_test=True)


def test_the_convention_is_found_out(start, query):
    def fractions(x: str, y: str) -> tuple[str, str]:
        return (x, y) if x.startswith('0.') else ('1', '1')

    server = start(make_transformers_serve())
    server.behaviour.answer = fractions
    asked = matcher(server, coordinates='auto', self_test=True)
    assert asked.describe()['coordinates'] == 'relative_1'
    np.testing.assert_allclose(asked.match(query).pixel, CLICK, atol=1.0)


@pytest.mark.parametrize(('coordinates', 'written', 'is_known'), [
    ('relative_1000_yx', '[500, 625]', True), ('relative_100', '[62.5, 50.0]', False),
    ('relative_1', '[0.625, 0.500]', True), ('absolute', '[192, 126]', True)])
@pytest.mark.parametrize('behaviour', [ServerBehaviour, make_transformers_serve])
def test_every_convention_is_written_and_read(start, query, coordinates, written, is_known,
                                              behaviour):
    server = start(behaviour())
    asked = matcher(server, coordinates=coordinates)
    match = asked.match(query)
    np.testing.assert_allclose(match.pixel, CLICK, atol=1.0)
    assert f'The point at {written}' in json.dumps(server.requests[-1])
    known = is_known and behaviour is ServerBehaviour  # a digit after a point has no distribution
    assert (match.confidence > asked.options.confidence_unknown) == known
    if known:  # a unit is wider than it is high
        assert match.covariance_px2[0, 0] > match.covariance_px2[1, 1]


def test_a_model_that_answers_in_per_cent_is_found_out(start, query):
    server = start(make_transformers_serve())
    server.behaviour.free = lambda x, y: f'<point x="{x}" y="{y}" alt="it">it</point>' \
        if re.fullmatch(r'\d?\d\.\d', x) else 'Ask in per cent.'
    asked = matcher(server, coordinates='auto', self_test=True)
    assert asked.describe()['coordinates'] == 'relative_100'
    np.testing.assert_allclose(asked.match(query).pixel, CLICK, atol=1.0)


# --- servers that are not there, or not as they should be

@pytest.mark.parametrize(('behaviour', 'options', 'words'), [
    (ServerBehaviour(key='right'), {}, 'key was refused'),
    (ServerBehaviour(models=('other', 'another')), {}, "no model 'cropond-3b'; .*other, another"),
    (ServerBehaviour(models=('one', 'two')), {'model': ''},
     'must name one of its models .*one, two'),
    (ServerBehaviour(models=500), {'model': ''}, 'must name one'),
    (ServerBehaviour(always='page'), {}, 'HTML page'),
    (ServerBehaviour(always='no_json'), {}, 'not JSON'),
    (ServerBehaviour(always='redirect'), {}, 'redirects to')])
def test_what_waiting_cannot_cure_is_an_error_at_start(start, monkeypatch, behaviour, options,
                                                       words):
    monkeypatch.delenv('CROSSPOINT_API_KEY', raising=False)
    with pytest.raises(ValueError, match=words):
        matcher(start(behaviour), **options)


def test_the_only_model_needs_no_name(start, query):
    asked = matcher(start(), model='')
    assert asked.describe()['model'] == MODEL
    assert asked.match(query)


def test_a_server_that_comes_after_the_node_is_found_by_a_click(server, start, query, caplog):
    port = server.port
    server.stop()
    with caplog.at_level(logging.WARNING):
        asked = matcher(server)
    assert 'the next query tries again' in caplog.text
    refused = refusal(asked, query)
    assert refused.code == Code.MATCHER_FAILED
    assert 'is the server running' in refused.message
    assert 'is the server running' in asked.describe()['state']
    start(port=port)
    np.testing.assert_allclose(asked.match(query).pixel, CLICK, atol=1.0)
    assert asked.describe()['state'] == 'ready'


def test_a_server_killed_amid_a_click_refuses_it_and_its_successor_answers_the_next(
        server, asked, start, query):
    server.behaviour.always = 'silent'
    before = len(server.requests)

    def kill() -> None:
        end_s = time.monotonic() + 10
        while len(server.requests) == before and time.monotonic() < end_s:
            time.sleep(0.01)
        server.stop()

    killer = threading.Thread(target=kill)
    killer.start()
    begun_s = time.monotonic()
    refused = refusal(asked, query)
    assert time.monotonic() - begun_s < 6
    killer.join()
    assert refused.code == Code.MATCHER_FAILED
    successor = start(port=server.port)
    np.testing.assert_allclose(asked.match(query).pixel, CLICK, atol=1.0)
    assert successor.requests


def test_a_successor_by_the_same_name_need_not_take_the_self_test_again(server, start, query):
    asked = matcher(server, self_test=True)
    server.stop()
    refusal(asked, query)
    successor = start(port=server.port)
    asked.match(query)
    assert len(successor.forced) == 1


def test_another_model_by_the_same_name_takes_the_self_test(start, query):
    server = start()
    asked = matcher(server, self_test=True)
    server.stop()
    refusal(asked, query)
    successor = start(ServerBehaviour(root='/models/another'), port=server.port)
    np.testing.assert_allclose(asked.match(query).pixel, CLICK, atol=1.0)
    assert len(successor.forced) > 1


def test_a_reply_by_another_model_is_refused_and_that_one_takes_the_self_test(start, query):
    server = start()
    asked = matcher(server, self_test=True)
    server.behaviour.model, server.behaviour.answer = 'qwen', lambda x, y: ('1', '1')
    assert "'qwen' replied instead of 'cropond-3b'" in refusal(asked, query).message
    assert 'failed its self-test' in refusal(asked, query).message
    server.behaviour.model, server.behaviour.answer = MODEL, lambda x, y: (x, y)
    np.testing.assert_allclose(asked.match(query).pixel, CLICK, atol=1.0)


def test_a_model_that_repeats_the_key_is_quoted_without_it(start, query, monkeypatch, caplog):
    key = 'sk-very-secret-0123456789'
    monkeypatch.setenv('CROSSPOINT_API_KEY', key)
    caplog.set_level(logging.DEBUG)
    server = start(make_transformers_serve())
    server.behaviour.free = lambda x, y: f'{key} [{x}, {y}] {key}'
    asked = matcher(server)
    shown = [*asked.describe().values(), repr(asked), repr(vars(asked))]
    server.behaviour.free = lambda x, y: f'I see {key}.'
    shown.append(str(refusal(asked, query)))
    assert server.authorizations[-1] == f'Bearer {key}'
    assert key[:8] not in ''.join(shown) + caplog.text


def test_a_slow_server_is_a_timeout_and_is_asked_again_at_the_next_click(server, query):
    asked = matcher(server, deadline_s=0.5)
    server.behaviour.always = 'silent'
    begun_s = time.monotonic()
    refused = refusal(asked, query)
    assert time.monotonic() - begun_s < 3
    assert refused.code == Code.TIMEOUT
    assert 'deadline_s' in refused.message
    server.behaviour.always = ''
    np.testing.assert_allclose(asked.match(query).pixel, CLICK, atol=1.0)


def test_a_click_waits_for_the_examination_no_longer_than_its_deadline(server, start, query):
    port = server.port
    server.stop()
    asked = matcher(server, deadline_s=0.5)
    successor = start(ServerBehaviour(always='silent'), port=port)
    refused = refusal(asked, query)
    assert refused.code == Code.TIMEOUT
    assert 'still being tested' in refused.message
    successor.stop()


@pytest.mark.parametrize('fault', [
    '500', '429', 'cut', 'page', 'bad_gateway', 'not_a_number', 'above_one', 'no_token', 'nested',
    'half_chunked', 'bomb', 'redirect'])
def test_a_fault_costs_one_click_and_no_more(server, asked, query, fault):
    server.behaviour.faults = [fault]
    assert refusal(asked, query).code == Code.MATCHER_FAILED
    np.testing.assert_allclose(asked.match(query).pixel, CLICK, atol=1.0)


def test_an_overloaded_server_is_not_examined_on_top_of_it(server, asked, query):
    asked.match(query)
    server.behaviour.faults = ['busy']
    assert 'Retry-After: 7' in refusal(asked, query).message
    before = len(server.requests)
    asked.match(query)
    assert all('first image' in json.dumps(request) for request in server.requests[before:])


@pytest.mark.parametrize('fault', ['503', 'bad_gateway'])
def test_a_passing_error_of_the_server_starts_no_examination(server, asked, query, fault):
    """A fleet that examined it at once would keep it from recovering; two in a row do not pass."""
    before = len(server.requests)
    server.behaviour.faults = [fault]
    refusal(asked, query)
    asked.match(query)
    assert all('first image' in json.dumps(request) for request in server.requests[before:])
    server.behaviour.always = fault
    refusal(asked, query)
    refusal(asked, query)
    server.behaviour.always = ''
    assert asked.describe()['state'] != 'ready'
    assert asked.match(query)


def test_absent_libraries_are_named_with_the_command_that_brings_them(monkeypatch):
    import sys
    for name in ('httpx', 'httpx2', 'crosspoint_ros.matchers.cropond.remote',
                 'crosspoint_ros.matchers.cropond.server.http_client'):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, 'httpx', None)
    monkeypatch.setitem(sys.modules, 'httpx2', None)
    with pytest.raises(ValueError, match='pip install httpx2'):
        load_matcher('cropond_remote')


# --- reading a model's own form

@pytest.mark.parametrize(('reply', 'convention', 'around'), [
    (FREE + '12, 345]}', CoordinateFormat.RELATIVE_1000, (FREE, ', ', ']')),
    ('(0.012, 0.345)', CoordinateFormat.RELATIVE_1, ('(', ', ', ')')),
    ('<point>[12,345]</point>', CoordinateFormat.ABSOLUTE, ('<point>[', ',', ']'))])
def test_a_form_is_what_stands_around_the_numbers(reply, convention, around):
    form = infer_template(reply, ('7', '8'), convention)
    assert (form.before, form.between, form.after) == around


@pytest.mark.parametrize('reply', ['none', '12, 345', '{"point_2d": [-12, 345]}', '[1.5, 2]',
                                   'The point [7, 8] is at [12, 345].', 'It is at [12, 345].'])
def test_without_plain_numbers_and_an_end_there_is_no_form(reply):
    assert infer_template(reply, ('7', '8'), CoordinateFormat.RELATIVE_1000) is None
