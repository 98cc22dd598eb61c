for (const button of document.querySelectorAll("thead button")) button.onclick = () => {
  const column = button.parentNode.cellIndex, body = button.closest("table").tBodies[0];
  const falling = button.dataset.falling = button.dataset.falling === "1" ? "" : "1";
  const key = row => row.cells[column].textContent, sign = falling ? -1 : 1;
  const number = text => text === "-" ? -1 : parseFloat(text);
  const compare = (a, b) => column ? number(key(a)) - number(key(b)) : key(a).localeCompare(key(b));
  body.append(...[...body.rows].sort((a, b) => sign * compare(a, b)));
};
const form = document.querySelector("#gallery form"), cards = document.querySelector(".cards");
const show = () => {
  const is = (card, name) => !form[name]?.value || form[name].value === card.dataset[name];
  const all = [...cards.children], by = form.order.value;
  for (const card of all) card.hidden = !(is(card, "verdict") && is(card, "category"));
  cards.append(...all.sort((a, b) => a.dataset[by] - b.dataset[by]));
  form.querySelector("output").value = `${all.filter(card => !card.hidden).length} shown`;
};
if (form) {
  form.onchange = show;
  form.onsubmit = () => false;
  cards.onclick = event => event.target.closest(".tiles")?.parentNode.classList.toggle("large");
  show();
}
