// Creates elements. Text is set as text: nothing here parses markup.

const SVG = 'http://www.w3.org/2000/svg';

function fill(element, attributes, parent, text) {
  for (const [name, value] of Object.entries(attributes)) {
    element.setAttribute(name, value);
  }
  if (text !== undefined) element.textContent = text;
  if (parent) parent.append(element);
  return element;
}

const html = (name, attributes = {}, parent = null, text = undefined) =>
  fill(document.createElement(name), attributes, parent, text);

const svg = (name, attributes = {}, parent = null, text = undefined) =>
  fill(document.createElementNS(SVG, name), attributes, parent, text);

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
