"""The form of a reply in tokens, given by a template or learnt from the model."""
from __future__ import annotations

import pytest
import tiny_qwen

from crosspoint_ros.matchers.cropond.engine.reply_grammar import (
    AllowedTokens,
    PartialNumber,
    ReplyTokenizer,
)
from crosspoint_ros.matchers.cropond.prompt import CoordinateFormat, ReplyTemplate

RELATIVE, FRACTION = CoordinateFormat.RELATIVE_1000, CoordinateFormat.RELATIVE_1


@pytest.fixture(scope='module')
def alphabet():
    from transformers import PreTrainedTokenizerFast
    return ReplyTokenizer(PreTrainedTokenizerFast(tokenizer_object=tiny_qwen.train_tokenizer(),
                                            additional_special_tokens=list(tiny_qwen.SPECIAL_TOKENS)))


def test_a_template_becomes_the_tokens_of_its_text(alphabet):
    form = alphabet.build_format(ReplyTemplate(), RELATIVE, 3)
    assert alphabet.decode(form.before) == ReplyTemplate().before
    assert alphabet.decode(form.between) == ', '
    assert form.value_count == 1000


def test_every_token_that_opens_with_the_bracket_closes_a_number(alphabet):
    form = alphabet.build_format(ReplyTemplate(), RELATIVE, 3)
    closers = {alphabet.decode([token]) for token in form.terminators}
    assert {']', '],', ']\n', ']}\n', ']]\n'} <= closers
    assert all(text.startswith(']') for text in closers)


@pytest.mark.parametrize('reply', [
    '```json\n[\n\t{"point_2d": [512, 307], "label": "handle"}\n]\n```', '{"point_2d": [512, 307]}',
    '[512, 307]', '(512, 307)', '<point x="512" y="307">handle</point>', 'At 512 307 .'])
def test_the_form_of_a_reply_is_learnt_from_its_own_tokens(alphabet, reply):
    tokens = alphabet.encode(reply)
    form = alphabet.infer_format(tokens, RELATIVE, 3)
    text = alphabet.decode(form.before) + '512' + alphabet.decode(form.between) + '307'
    assert reply.startswith(text)
    rest = reply[len(text):]
    assert any(rest.startswith(alphabet.decode([closer])) for closer in form.terminators)


def test_the_form_of_fractions_keeps_the_zeros_before_their_points(alphabet):
    form = alphabet.infer_format(alphabet.encode('[0.512, 0.307]'), FRACTION, 3)
    assert alphabet.decode(form.before) == '[0.'
    assert alphabet.decode(form.between) == ', 0.'
    assert form.is_fraction


@pytest.mark.parametrize('reply', ['', 'no point', '{"point_2d": []}', '[512]', '[512, 307'])
def test_no_form_is_learnt_where_there_are_no_two_numbers_that_end(alphabet, reply):
    assert alphabet.infer_format(alphabet.encode(reply), RELATIVE, 3) is None


@pytest.mark.parametrize('reply', [
    '[-1, -1]', '[412, -1]', '[-1, 300]', '{"point_2d": [-1, -1]}', '[+12, 300]', '[- 1, 300]',
    '<point x="-1" y="-1">it</point>'])
def test_no_form_is_learnt_from_numbers_with_a_sign(alphabet, reply):
    """Forced, that of -1 would leave the digits: a point near the corner."""
    assert alphabet.infer_format(alphabet.encode(reply), RELATIVE, 3) is None


def test_no_form_is_learnt_from_a_fraction_with_a_sign(alphabet):
    assert alphabet.infer_format(alphabet.encode('[-0.100, 0.307]'), FRACTION, 3) is None


def test_no_form_is_learnt_from_a_reply_that_repeats_the_click(alphabet):
    """Its first two numbers are the question's: forced, they would pass for an answer."""
    reply = 'The point at [512, 307] in the first image corresponds to [123, 456] in the second.'
    assert alphabet.infer_format(alphabet.encode(reply), RELATIVE, 3) is None


def test_a_template_that_nothing_ends_is_refused(alphabet):
    with pytest.raises(ValueError, match='nothing ends the numbers'):
        alphabet.build_format(ReplyTemplate(between='', after=']'), RELATIVE, 3)


def test_numbers_have_no_leading_zero_but_fractions_may(alphabet):
    whole, fraction = (alphabet.build_format(ReplyTemplate(), c, 3) for c in (RELATIVE, FRACTION))
    assert not PartialNumber('0').can_extend(whole)
    assert PartialNumber('0').can_extend(fraction)
    assert not PartialNumber('512').can_extend(whole)
    assert not PartialNumber('').can_end()
    assert PartialNumber('5').to_int(whole) == 5
    assert PartialNumber('5').to_int(fraction) == 500
    assert PartialNumber('05').to_int(fraction) == 50


def test_only_what_may_follow_is_allowed(alphabet):
    choices = AllowedTokens(alphabet, alphabet.build_format(ReplyTemplate(), RELATIVE, 3))
    rows = choices.build_mask([(PartialNumber(''), 0), (PartialNumber('0'), 0),
                               (PartialNumber('51'), 1)])
    assert rows[0, :10].all()
    assert not rows[0, 10:].any()
    assert not rows[1, :10].any()
    assert rows[1, choices.end_columns[0]].all()
    assert not rows[1, choices.end_columns[1]].any()
    assert rows[2, :10].all()
    assert rows[2, choices.end_columns[1]].all()


def test_a_tokenizer_that_joins_digits_is_refused():
    class Joining:
        def encode(self, text, add_special_tokens):
            return [len(text)]

    with pytest.raises(ValueError, match='digit by digit'):
        ReplyTokenizer(Joining())
