"""Values of ``--cfg-options``: those of MMEngine's own parser, and texts that it changes."""

import argparse
import random

import pytest
from mmengine.config import DictAction

from mmfasternet.cli.config_options import parse_value
from mmfasternet.cli.options import add_run_options


@pytest.fixture
def parse():
    parser = argparse.ArgumentParser()
    add_run_options(parser)
    return lambda *words: parser.parse_args(words).cfg_options


@pytest.mark.parametrize('text', ['shapes (1)', 'shapes [a] b', '/my data/ü', 'a,b', 'Smith, 12', '(1) x', '[a] (b)',
                                  '(a) and (b)', 'a[1', '1]', '[a]]', 'true,x', ' x ', 'x=y', "it's", "'a' or 'b'",
                                  "'", '', '{a: 1}', r'C:\new', 'None of them', '2024_05_01', '1_0.5',
                                  '\u0661\u0662'])
def test_a_text_stays_as_it_is(parse, text):
    assert parse('--cfg-options', f'a.root={text}') == {'a.root': text}


@pytest.mark.parametrize('text, value', [
    ("['traffic light', x]", ['traffic light', 'x']), ('[traffic light, x]', ['traffic light', 'x']),
    ("[it's, \"a, b\", 'c]']", ["it's", 'a, b', 'c]']), ('[shapes (1), b]', ['shapes (1)', 'b']),
    ('[shapes (1, 2), b]', ['shapes (1, 2)', 'b']), ("[(1, 'x y'), [None, true]]", [(1, 'x y'), [None, True]]),
    ('(a,)', ('a', )), ('(x, 3)', ('x', 3)), ('[ ]', []), ("'1,2'", '1,2'), ('"12"', '12'), ("'[a]'", '[a]'),
    ('["12", "None", " "]', ['12', 'None', ' ']), ('[a,,b]', ['a', '', 'b']),
])
def test_brackets_and_quotes_that_enclose_the_whole(parse, text, value):
    found = parse('--cfg-options', f'key={text}')['key']
    assert found == value and type(found) is type(value)


def test_what_mmengine_reads_is_read_alike():
    """Numbers, words and nested lists and tuples, with spaces between: what its parser does not change."""
    theirs = argparse.ArgumentParser()
    theirs.add_argument('--options', nargs='+', action=DictAction)
    rng = random.Random(0)
    words = ['1', '-2', '0.5', '1e-3', 'inf', 'true', 'False', 'None', 'none', 'SGD', 'a/b.pth', 'x-y', '007']

    def value(depth):
        if depth == 0 or depth < 3 and rng.random() < 0.4:
            return rng.choice(words)
        opening, closing = rng.choice(['[]', '()'])
        items = (',' + ' ' * rng.randint(0, 1)).join(value(depth - 1) for _ in range(rng.randint(0, 4)))
        return f'{opening}{items}{rng.choice(["", ","]) if items else ""}{closing}'

    lists = ['1,2', '0.5,-1e3,7', '1,2,', 'true,false', 'None, None', '1,True,None,']
    texts = [*words, *lists, *(value(3) for _ in range(500))]
    for text in texts:
        expected = theirs.parse_args(['--options', f'k={text}']).options['k']
        assert repr(parse_value(text)) == repr(expected), text
    assert len(set(texts)) > 250


def test_options_given_twice_add_up(parse):
    found = parse('--cfg-options', 'a=1', 'b=2', '--work-dir', 'w', '--cfg-options', 'b=3', 'c=[4]')
    assert found == {'a': 1, 'b': 3, 'c': [4]}
    assert parse() is None  # nothing is left of the last call


@pytest.mark.parametrize('option, problem', [
    ('b', "and 'b' has no '='"), ('=1', "the key of '=1' is not complete"), ('a..b=1', 'is not complete'),
    ('a=[1, (2]', "a: the brackets in '[1, (2]'"),
    ('a=[a,b', "a: the brackets in '[a,b'"), ('a=[1, 2', "a: the brackets in '[1, 2'"),
    ('a=(1', "a: the brackets in '(1'")])
def test_what_is_no_option_is_named(parse, capsys, option, problem):
    with pytest.raises(SystemExit):
        parse('--cfg-options', 'a=1', option)
    assert problem in capsys.readouterr().err
