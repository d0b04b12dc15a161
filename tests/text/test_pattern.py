"""Patterns that real tokenizers use pass; those that may not end do not."""

import re
import time

import pytest

from dllm_jax.text import byte_level, pattern


@pytest.mark.parametrize(
  'text',
  [
    byte_level.QWEN2_PATTERN,
    # GPT-2's and GPT-4o's.
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|"
    r'\s+(?!\S)|\s+',
    r'[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}]*[\p{Ll}\p{M}]+(?i:\'s|\'t)?|\p{N}{1,3}',
    r'(?:abc)+|(?:[ab])*|a{2}|a{,3}|a{2,}|a{|}',
    r'[[a]&&[^)(+*]]+|[]*(]+|\(a+\)+|a+?|b++',
    r'(?:(?:a|b)?c)?(?i:d|e)|\x{41}+|\p{Greek}{2,5}|(?m-i:a)',
    '|'.join(f'word{i}' for i in range(999)),
    'x',
    '',
  ],
)
def test_flat_patterns_pass(text):
  pattern.check(text)


@pytest.mark.parametrize(
  ('text', 'fault'),
  [
    ('(a+)+$', 'a repetition inside another'),
    ('(?:a*)*b', 'a repetition inside another'),
    ('((a?))+b', 'a repetition inside another'),
    ('(?:a|a)*b', 'a repetition inside another'),
    ('(?:[+*]+){2,}', 'a repetition inside another'),
    ('(?:(?:a{1,9}))*', 'a repetition inside another'),
    ('a+*', 'a repetition of a repetition'),
    ('a{2,3}{2,3}{2,3}', 'a repetition of a repetition'),
    (r'\s*\s*\s*\s*x', 'more than 2 repetitions'),
    (r'(?:\s*\s*)(?:a|\s*\s*)x', 'more than 2 repetitions'),
    (r'(a)\1', 'a back-reference'),
    (r'(?<n>a\g<n>)', 'a back-reference'),
    ('(?~a)', 'an unknown kind of group'),
    ('(?(1)a|b)', 'an unknown kind of group'),
    ('(?x:(a+) +)b', 'an unknown kind of group'),
    ('(?im-x:a)', 'an unknown kind of group'),
    ('a{1,99}+b', 'a repetition of a repetition'),
    ('a{2}+b', 'a repetition of a repetition'),
    ('a?' * 26 + 'a' * 26 + 'b', 'ways through optional parts'),
    ('(?:a|a)' * 26 + 'b', 'ways through optional parts'),
    ('(?:aa?)?' * 9 + 'b', 'ways through optional parts'),
    ('a{0,9}' * 3, 'ways through optional parts'),
    ('a{9,0}' * 3, 'ways through optional parts'),
    ('a{9}?' * 9, 'ways through optional parts'),
    ('(?:b|' + 'a?' * 9 + ')', 'ways through optional parts'),
    ('[a', 'a character class without an end'),
    ('a' * 70000, '70000 characters'),
  ],
)
def test_patterns_that_may_not_end_are_refused(text, fault):
  with pytest.raises(ValueError, match=fault) as caught:
    pattern.check(text)
  assert '\n' not in str(caught.value) and len(str(caught.value)) < 200


def test_the_limit_is_where_backtracking_grows():
  # What passes is quadratic, seen on Python's own backtracking engine.
  pattern.check('a*a*b')
  began = time.process_time()
  assert not re.match('a*a*b', 'a' * 2000)
  assert time.process_time() - began < 2.0
