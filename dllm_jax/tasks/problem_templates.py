"""The templates of word problems, and the words that fill them."""

from collections.abc import Iterable
from typing import NamedTuple

# Fields that are filled together, and what they are filled with.
WORDS = {
  'name he He his': (
    *('Mia she She her', 'Ben he He his', 'Anna she She her', 'Leo he He his'),
    *('Nina she She her', 'Omar he He his', 'Ruth she She her'),
    *('Paul he He his', 'Sara she She her', 'Ivan he He his'),
  ),
  'friend': ('Tom', 'Lily', 'Max', 'Ella', 'Sam', 'Zoe', 'Jack', 'Rosa'),
  'buys': ('buys', 'gets', 'finds', 'receives'),
  'gives': ('gives', 'sells', 'sends', 'hands'),
  'fruits': ('apples', 'pears', 'plums', 'oranges', 'lemons', 'peaches'),
  'pastries': ('cookies', 'muffins', 'rolls', 'pies', 'tarts', 'waffles'),
  'flowers': ('roses', 'tulips', 'daisies', 'lilies', 'violets'),
  'toys': ('marbles', 'stickers', 'stamps', 'shells', 'coins', 'beads'),
  'thing things': (
    *('pencil pencils', 'ruler rulers', 'notebook notebooks'),
    *('brush brushes', 'cup cups', 'candle candles'),
  ),
  'gift': ('kite', 'lamp', 'ball', 'puzzle', 'drum'),
  'dream': ('bike', 'guitar', 'tent', 'camera', 'telescope'),
  'box boxes': ('bag bags', 'box boxes', 'basket baskets', 'crate crates'),
  'kids': ('children', 'students', 'girls', 'boys'),
  'people': ('people', 'tourists', 'students', 'visitors', 'passengers'),
  'birds': ('hens', 'ducks', 'geese'),
  'pests': ('Rabbits', 'Snails', 'Goats', 'Deer'),
  'bus': ('bus', 'train', 'tram'),
  'city': ('city', 'village', 'harbor', 'airport'),
  'camp': ('camp', 'school', 'picnic', 'party'),
  'hall': ('theater', 'cinema', 'circus'),
  'tank': ('tank', 'barrel', 'trough'),
  'shop': ('library', 'bakery', 'school', 'market'),
  'lake': ('lake', 'museum', 'beach', 'zoo'),
  'day': ('Monday', 'Tuesday', 'Friday', 'Saturday', 'Sunday'),
}
SIZES = tuple(len(choices) for choices in WORDS.values())


class Template(NamedTuple):
  """A kind of problem.

  Attributes:
    question: with fields for words and for numbers; those of numbers are
      single letters.
    steps: 'a op b = c' and a few words; an operand is a literal, a number of
      the question or the result of an earlier step. The last step finds the
      answer.
    ranges: the smallest and the largest value of each number.
  """

  question: str
  steps: tuple[str, ...]
  ranges: dict[str, tuple[int, int]]


TEMPLATES = (
  Template(
    '{name} has {a} {fruits}. {He} {buys} {b} {boxes} with {c} {fruits} each '
    'and {gives} {d} {fruits} to {friend}. How many {fruits} does {name} have '
    'now?',
    (
      '{b} * {c} = {x} {fruits} are in the {boxes}.',
      '{a} + {x} = {y} {fruits} in all.',
      '{y} - {d} = {z} {fruits} are left.',
    ),
    {'a': (5, 40), 'b': (2, 6), 'c': (2, 9), 'd': (2, 30)},
  ),
  Template(
    '{name} collects {toys}. {He} has {a} of them, and {friend} has {b} more '
    'than {name}. How many {toys} do they have together?',
    (
      '{a} + {b} = {x} {toys} belong to {friend}.',
      '{a} + {x} = {y} {toys} belong to the two of them.',
    ),
    {'a': (5, 70), 'b': (2, 50)},
  ),
  Template(
    '{name} plants {a} rows of {flowers} with {b} in each row. {pests} eat {c} '
    'of the {flowers}. How many {flowers} are left in the garden?',
    (
      '{a} * {b} = {x} {flowers} are planted in the garden.',
      '{x} - {c} = {y} {flowers} are left in the garden.',
    ),
    {'a': (3, 12), 'b': (3, 12), 'c': (2, 60)},
  ),
  Template(
    'In a shop a {thing} costs {a} dollars and a {gift} costs {b} dollars. If '
    '{name} buys {c} {things} and one {gift}, how many dollars does {he} '
    'pay?',
    (
      '{c} * {a} = {x} dollars is the price of the {things}.',
      '{x} + {b} = {y} dollars is the price of everything.',
    ),
    {'a': (2, 12), 'b': (5, 60), 'c': (2, 12)},
  ),
  Template(
    '{name} has {a} dollars. {He} buys {b} {things} for {c} dollars each and '
    'spends {d} dollars on lunch. How many dollars are left?',
    (
      '{b} * {c} = {x} dollars are spent on {things}.',
      '{x} + {d} = {y} dollars are spent in all.',
      '{a} - {y} = {z} dollars are left.',
    ),
    {'a': (30, 200), 'b': (2, 8), 'c': (2, 9), 'd': (3, 25)},
  ),
  Template(
    '{name} bakes {a} {pastries} in the morning and {b} in the afternoon. {He} '
    'packs all of them into {c} {boxes}, the same number into each. How many '
    '{pastries} are in each {box}?',
    (
      '{a} + {b} = {x} {pastries} are baked that day.',
      '{x} / {c} = {y} {pastries} are in each {box}.',
    ),
    {'a': (8, 60), 'b': (8, 60), 'c': (2, 9)},
  ),
  Template(
    'A {bus} leaves the {city} with {a} {people}. At the first stop {b} '
    '{people} get off and {c} get on. At the next stop {d} more get on. How '
    'many {people} are on the {bus} now?',
    (
      '{a} - {b} = {x} {people} stay on the {bus}.',
      '{x} + {c} = {y} {people} ride on to the next stop.',
      '{y} + {d} = {z} {people} are on the {bus} now.',
    ),
    {'a': (20, 80), 'b': (2, 40), 'c': (2, 30), 'd': (2, 30)},
  ),
  Template(
    'A book has {a} pages. For {b} days {name} reads {c} pages a day, and on '
    '{day} {he} reads {d} more. How many pages are there still to read?',
    (
      '{b} * {c} = {x} pages are read in {b} days.',
      '{x} + {d} = {y} pages are read in all.',
      '{a} - {y} = {z} pages are still to read.',
    ),
    {'a': (40, 200), 'b': (2, 9), 'c': (3, 15), 'd': (2, 30)},
  ),
  Template(
    '{name} picks {a} {fruits}, and {friend} picks {b} times as many. On the '
    'way home they eat {c} of the {fruits}. How many do they bring home?',
    (
      '{b} * {a} = {x} {fruits} are picked by {friend}.',
      '{a} + {x} = {y} {fruits} are picked in all.',
      '{y} - {c} = {z} {fruits} are brought home.',
    ),
    {'a': (3, 25), 'b': (3, 7), 'c': (2, 20)},
  ),
  Template(
    '{friend} has {a} {toys}. {name} had twice as many, but {he} lost {b} of '
    'them at the {lake}. How many {toys} does {name} have now?',
    (
      '2 * {a} = {x} {toys} belonged to {name} at first.',
      '{x} - {b} = {y} {toys} still belong to {name}.',
    ),
    {'a': (5, 90), 'b': (2, 60)},
  ),
  Template(
    '{name} {gives} half of {his} {a} {toys} to {friend} and then wins {b} '
    '{toys} in a game. How many {toys} does {he} have in the end?',
    (
      '{a} / 2 = {x} {toys} go to {friend}.',
      '{a} - {x} = {y} {toys} stay with {name}.',
      '{y} + {b} = {z} {toys} are there in the end.',
    ),
    {'a': (6, 160), 'b': (2, 60)},
  ),
  Template(
    'On a farm {a} {birds} lay {b} eggs each in a week. The farmer sells {c} '
    'of the eggs and puts the others into {boxes} of {d}. How many {boxes} '
    'does the farmer fill?',
    (
      '{a} * {b} = {x} eggs are laid in the week.',
      '{x} - {c} = {y} eggs are not sold.',
      '{y} / {d} = {z} {boxes} are filled.',
    ),
    {'a': (3, 15), 'b': (3, 9), 'c': (2, 50), 'd': (2, 9)},
  ),
  Template(
    '{name} earns {a} dollars an hour. On {day} {he} works {b} hours and on '
    'the next day {c} hours. How many dollars does {he} earn on both days?',
    (
      '{b} + {c} = {x} hours are worked on both days.',
      '{x} * {a} = {y} dollars are earned on both days.',
    ),
    {'a': (5, 20), 'b': (2, 9), 'c': (2, 9)},
  ),
  Template(
    'A {hall} has {a} rows of {b} seats. For a show, {c} {kids} and {d} '
    'teachers come and sit down. How many seats stay free?',
    (
      '{a} * {b} = {x} seats are in the {hall}.',
      '{c} + {d} = {y} seats are taken.',
      '{x} - {y} = {z} seats stay free.',
    ),
    {'a': (5, 15), 'b': (6, 15), 'c': (10, 90), 'd': (2, 12)},
  ),
  Template(
    '{name} rides {his} bike {a} miles to the {shop} and then {b} miles to the '
    '{lake}. {He} takes the same way home. How many miles does {he} ride?',
    (
      '{a} + {b} = {x} miles is the distance to the {lake}.',
      '2 * {x} = {y} miles is the distance there and back.',
    ),
    {'a': (2, 49), 'b': (2, 49)},
  ),
  Template(
    'On {day} {name} sells {a} tickets, and a day later {he} sells {b}. In the '
    'same two days {friend} sells {c} tickets. How many more tickets than '
    '{friend} does {name} sell?',
    (
      '{a} + {b} = {x} tickets are sold by {name}.',
      '{x} - {c} = {y} more tickets are sold by {name}.',
    ),
    {'a': (10, 90), 'b': (10, 90), 'c': (10, 120)},
  ),
  Template(
    'At a {camp} there are {a} girls and {b} boys, who form teams of {c} '
    'children. What is the number of teams?',
    (
      '{a} + {b} = {x} children are at the {camp}.',
      '{x} / {c} = {y} teams of {c} children are formed.',
    ),
    {'a': (5, 60), 'b': (5, 60), 'c': (3, 9)},
  ),
  Template(
    'There are {a} liters of water in a {tank}. Every hour {b} liters are '
    'used. After {c} hours {name} pours in {d} liters. How many liters are in '
    'the {tank} then?',
    (
      '{b} * {c} = {x} liters are used in {c} hours.',
      '{a} - {x} = {y} liters are left.',
      '{y} + {d} = {z} liters are in the {tank}.',
    ),
    {'a': (40, 150), 'b': (2, 12), 'c': (2, 9), 'd': (5, 50)},
  ),
  Template(
    '{name} wants to buy a {dream} for {a} dollars. {He} has {b} dollars and '
    'saves {c} dollars every week. After how many weeks can {he} buy the '
    '{dream}?',
    (
      '{a} - {b} = {x} dollars are missing at first.',
      '{x} / {c} = {y} weeks are needed to save {x} dollars.',
    ),
    {'a': (40, 200), 'b': (5, 100), 'c': (3, 12)},
  ),
  Template(
    '{name} puts {a} plates with {b} {fruits} each and {c} plates with {d} '
    '{pastries} each on the table. How many pieces of food are there?',
    (
      '{a} * {b} = {x} {fruits} are there.',
      '{c} * {d} = {y} {pastries} are there.',
      '{x} + {y} = {z} pieces of food are on the table.',
    ),
    {'a': (2, 8), 'b': (2, 12), 'c': (2, 8), 'd': (2, 12)},
  ),
)


def fields(picks: Iterable[int]) -> dict[str, str]:
  """The word of each field, by an index into each entry of `WORDS`."""
  filled = {}
  for (names, choices), pick in zip(WORDS.items(), picks, strict=True):
    filled |= zip(names.split(), choices[pick].split(), strict=True)
  return filled
