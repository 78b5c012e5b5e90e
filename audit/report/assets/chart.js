// Charts as inline SVG. Colours differ in lightness as well as in hue, and every line is named at its end.

const SVG = "http://www.w3.org/2000/svg";
const COLOURS = ["#0b5d8f", "#b3530b", "#1d6b46", "#7a3b8f", "#6b5b10", "#8f1d3f", "#3f4d5c"];

function svg(name, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

const label = (x, y, content, kind = "tick", anchor = "start") => svg("text", { x, y, class: kind, "text-anchor": anchor }, content);

// series: Map from a name to its points [x, y]. The x axis counts rounds.
function lineChart(title, series, { fromZero, decimals }) {
  const width = 560, height = 270, left = 58, right = 118, top = 22, bottom = 40;
  const points = [...series.values()].flat();
  if (points.length < 2) return null;
  const xs = points.map((p) => p[0]), ys = points.map((p) => p[1]);
  const least = (values) => values.reduce((a, b) => Math.min(a, b)), most = (values) => values.reduce((a, b) => Math.max(a, b));
  const x0 = least(xs), x1 = most(xs), y0 = fromZero ? 0 : least(ys), y1 = most(ys);
  const px = (x) => left + (x - x0) * (width - left - right) / (x1 - x0 || 1);
  const py = (y) => height - bottom - (y - y0) * (height - top - bottom) / (y1 - y0 || 1);
  const chart = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}, one line for each silo` });
  for (let tick = 0; tick <= 4; tick++) {
    const value = y0 + (y1 - y0) * tick / 4;
    chart.append(svg("line", { x1: left, x2: width - right, y1: py(value), y2: py(value), class: "grid" }));
    chart.append(label(left - 8, py(value) + 4, value.toFixed(decimals), "tick", "end"));
  }
  const step = Math.max(1, Math.ceil((x1 - x0) / 6));
  for (let x = x0; x <= x1; x += step) chart.append(label(px(x), height - bottom + 18, String(x), "tick", "middle"));
  chart.append(label((left + width - right) / 2, height - 4, "round", "tick", "middle"));
  const ends = [];
  [...series].forEach(([name, line], index) => {
    if (!line.length) return;
    const colour = COLOURS[index % COLOURS.length], last = line[line.length - 1];
    chart.append(svg("polyline", { points: line.map(([x, y]) => `${px(x).toFixed(1)},${py(y).toFixed(1)}`).join(" "), fill: "none", stroke: colour, "stroke-width": 2 }));
    for (const [x, y] of line) chart.append(svg("circle", { cx: px(x).toFixed(1), cy: py(y).toFixed(1), r: 2.4, fill: colour }));
    ends.push({ name, colour, x: px(last[0]), y: py(last[1]) });
  });
  let free = -Infinity;
  for (const end of ends.sort((a, b) => a.y - b.y)) { // names are moved apart so that none covers another
    free = Math.max(end.y, free + 15);
    const text = label(width - right + 10, free + 4, end.name.slice(0, 16), "name");
    text.style.fill = end.colour;
    chart.append(text);
  }
  return chart;
}

// One lane for each log, a mark for each entry: filled for what was allowed, a cross for what was refused.
function laneChart(facts) {
  const width = 1000, lane = 34, left = 130, right = 16, top = 8;
  const lanes = facts.logs.filter((log) => facts.entries.some((entry) => entry.log === log));
  const height = top + lanes.length * lane + 34;
  const start = moment(facts.from), end = moment(facts.to), span = end - start || 1;
  const px = (time) => left + (moment(time) - start) * (width - left - right) / span;
  const chart = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "When each party recorded something about this run" });
  lanes.forEach((log, row) => {
    const y = top + row * lane + lane / 2;
    chart.append(svg("line", { x1: left, x2: width - right, y1: y, y2: y, class: "grid" }));
    chart.append(label(left - 12, y + 4, memberOf(log.origin).slice(0, 18), "name", "end"));
    for (const entry of facts.entries.filter((item) => item.log === log)) {
      const x = px(entry.time);
      if (entry.decision === "deny") {
        chart.append(svg("path", { d: `M${x - 6},${y - 6}l12,12m0,-12l-12,12`, class: "deny" }));
      } else {
        chart.append(svg("circle", { cx: x.toFixed(1), cy: y, r: entry.decision === "allow" ? 4.5 : 3.5, class: entry.decision }));
      }
    }
  });
  for (let tick = 0; tick <= 4; tick++) {
    const moment = new Date(start + span * tick / 4).toISOString();
    const anchor = tick === 0 ? "start" : tick === 4 ? "end" : "middle";
    chart.append(label(left + (width - left - right) * tick / 4, height - 10, span > 36e5 * 36 ? moment.slice(0, 10) : moment.slice(11, 19), "tick", anchor));
  }
  return chart;
}
