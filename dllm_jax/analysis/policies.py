"""The models of a run: names, colours in plots, decoder settings in words."""

NAMES = ('base', 'control', 'final')
COLOURS = {'base': '#555555', 'control': '#c98a1b', 'final': '#2457a6'}


def in_words(setting: str) -> str:
  """A setting of eval.json's 'sweep': denoising steps, or a decoder's name."""
  return f'{setting} steps' if setting.isdigit() else setting
