"""The models of a run: their names, and their colours in plots."""

NAMES = ('base', 'control', 'final')
COLOURS = {'base': '#555555', 'control': '#c98a1b', 'final': '#2457a6'}
