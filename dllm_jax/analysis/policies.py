"""The models of a run: what they are called, and how they are drawn."""

NAMES = ('base', 'control', 'final')
COLOURS = {'base': '#555555', 'control': '#c98a1b', 'final': '#2457a6'}
