// Creates the charts and the player from the data of the page.

const DATA = JSON.parse(document.getElementById('data').textContent);

for (const figure of document.querySelectorAll('figure.chart')) {
  const {section, chart} = figure.dataset;
  new Chart(figure, DATA.charts[section][Number(chart)]);
}
const player = document.querySelector('.player');
if (player) new Player(player, DATA.problems);
