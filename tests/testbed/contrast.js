// Every visible piece of text whose contrast with what lies behind it is below 4.5, and how many were looked at.
const numbers = (colour) => colour.match(/[\d.]+/g).map(Number);
const linear = (value) => (value / 255 <= .04045 ? value / 255 / 12.92 : ((value / 255 + .055) / 1.055) ** 2.4);
const luminance = ([r, g, b]) => .2126 * linear(r) + .7152 * linear(g) + .0722 * linear(b);
const behind = (element) => {
  if (element.matches('svg .on')) return numbers(getComputedStyle(element.previousElementSibling).fill);
  for (let at = element; at; at = at.parentElement) {
    const colour = numbers(getComputedStyle(at).backgroundColor);
    if (colour.length < 4 || colour[3] === 1) return colour;
  }
};
const weak = [];
let checked = 0;
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let node; (node = walker.nextNode());) {
  const element = node.parentElement;
  if (!node.data.trim() || !element.getClientRects().length || element.closest('.visually-hidden')) continue;
  const style = getComputedStyle(element);
  const front = numbers(element.closest('svg') ? style.fill : style.color);
  const [low, high] = [luminance(front), luminance(behind(element))].sort((one, other) => one - other);
  checked += 1;
  if ((high + .05) / (low + .05) < 4.5) weak.push(`${element.outerHTML.slice(0, 120)}: ${front} on ${behind(element)}`);
}
return [checked, weak];
