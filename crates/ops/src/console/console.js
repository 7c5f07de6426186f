// Reads /console/state.json each second and shows it. The state names its own tables:
// { node, uptime_s, tiles: [{ name, value }], tables: [{ title, columns: [{ name, number }], rows: [[..]] }] }
const history = new Map();
const POINTS = 60;

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function spark(name, value) {
  const values = history.get(name) ?? [];
  values.push(value);
  if (values.length > POINTS) values.shift();
  history.set(name, values);
  const most = Math.max(1, ...values);
  const points = values.map((v, n) => `${(n / (POINTS - 1)) * 100},${32 - (v / most) * 30}`).join(" ");
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 100 34");
  svg.setAttribute("preserveAspectRatio", "none");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  line.setAttribute("points", points);
  svg.append(line);
  return svg;
}

function number(value) {
  if (typeof value !== "number") return value;
  return Number.isInteger(value) ? value.toLocaleString("en") : value.toLocaleString("en", { maximumFractionDigits: 2 });
}

function table({ title, columns, rows, empty }) {
  const section = element("section", {}, element("h2", { textContent: title }));
  if (rows.length === 0) {
    section.append(element("p", { className: "empty", textContent: empty ?? "none" }));
    return section;
  }
  const head = element("tr", {}, ...columns.map((column) =>
    element("th", { textContent: column.name, className: column.number ? "n" : "" })));
  const body = rows.map((row) => element("tr", {}, ...row.map((cell, n) =>
    element("td", { textContent: number(cell), className: columns[n].number ? "n" : "" }))));
  section.append(element("table", {}, element("thead", {}, head), element("tbody", {}, ...body)));
  return section;
}

function span(seconds) {
  const hours = Math.floor(seconds / 3600), minutes = Math.floor(seconds / 60) % 60;
  return hours ? `${hours} h ${minutes} min` : minutes ? `${minutes} min ${seconds % 60} s` : `${seconds} s`;
}

function show(state) {
  document.title = `${state.node} – Mainstay console`;
  document.getElementById("when").textContent = `${state.node}, up ${span(state.uptime_s)}`;
  document.getElementById("tiles").replaceChildren(...state.tiles.map(({ name, value }) =>
    element("div", { className: "tile" }, element("span", { textContent: name }),
      element("b", { textContent: number(value) }), spark(name, value))));
  document.getElementById("tables").replaceChildren(...state.tables.map(table));
}

async function turn() {
  const when = document.getElementById("when");
  try {
    const answer = await fetch("/console/state.json", { cache: "no-store", signal: AbortSignal.timeout(3000) });
    if (!answer.ok) throw new Error(`${answer.status}`);
    show(await answer.json());
    when.className = "";
  } catch (error) {
    when.className = "stale";
    when.textContent = `no answer from the node (${error.message}); trying again`;
  }
  setTimeout(turn, 1000);
}
turn();
