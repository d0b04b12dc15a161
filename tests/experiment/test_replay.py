"""How a completion was unmasked, frame by frame."""

from dllm_jax.experiment import replay

SPELL = lambda ids: ''.join('abc'[i] for i in ids)


def test_frames_by_hand():
  row = {
    'completion_ids': [0, 1, 2, 2],
    'commit_step': [1, 0, 1, 2],
    'num_steps': 3,
  }
  assert list(replay.frames(row, SPELL)) == [
    [('░', 'dim'), ('b', 'bold green'), ('░░', 'dim')],
    [('a', 'bold green'), ('b', ''), ('c', 'bold green'), ('░', 'dim')],
    [('abc', ''), ('c', 'bold green')],
  ]


def test_the_last_frame_shows_what_no_step_committed():
  row = {'completion_ids': [0, 2], 'commit_step': [0, 2], 'num_steps': 2}
  assert list(replay.frames(row, SPELL)) == [
    [('a', 'bold green'), ('░', 'dim')],
    [('ac', '')],
  ]


def test_ids_without_a_tokenizer():
  assert replay.spell(None, [3, 20]) == '3 20 '
