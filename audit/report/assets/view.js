// Builds the page from verified facts. Data reaches the document as text nodes only, never as markup.

function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children.flat(2).filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

// What nobody sees, and what turns text, could make one text look like another: it is written out.
const HIDDEN = /(?![\t\n])[\p{C}\p{Zl}\p{Zp}\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0e\uffa0\u{e0000}-\u{e0fff}]/gu;
const plain = (value) => String(value ?? "").replace(HIDDEN, (c) => `\\u${c.codePointAt(0).toString(16).padStart(4, "0")}`);
const code = (value) => el("code", {}, plain(value));
const MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];
const dayOf = (time) => `${Number(time.slice(8, 10))} ${MONTHS[Number(time.slice(5, 7)) - 1]} ${time.slice(0, 4)}`;
const clock = (time) => time.slice(11, 19);
const count = (n, one, many = `${one}s`) => `${n.toLocaleString("en-GB")} ${n === 1 ? one : many}`;
const listed = (items) => (items.length < 2 ? items.join("") : `${items.slice(0, -1).join(", ")} and ${items[items.length - 1]}`);
const VERBS = { allow: "allowed", deny: "refused", record: "recorded" };
const badge = (decision) => el("span", { class: `badge ${decision}` }, VERBS[decision]);
const short = (digest) => el("code", { title: digest }, digest ? `${plain(digest).slice(0, 19)}…` : "–");
const section = (id, title, ...children) => el("section", { "aria-labelledby": id }, el("h2", { id }, title), ...children);

function table(caption, heads, rows, kind = "") {
  const head = heads.map(([text, numeric]) => el("th", { scope: "col", class: numeric ? "number" : null }, text));
  const cells = (row) => row.map((cell, i) => el(i === 0 ? "th" : "td", { scope: i === 0 ? "row" : null, class: heads[i][1] ? "number" : null }, cell));
  return el("div", { class: "scroll" }, el("table", { class: kind }, el("caption", {}, caption),
    el("thead", {}, el("tr", {}, head)), el("tbody", {}, rows.map((row) => el("tr", {}, cells(row))))));
}

function duration(from, to) {
  const seconds = Math.max(0, Math.round((moment(to) - moment(from)) / 1000));
  const [h, m, s] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  if (!seconds) return "under 1 s";
  return h ? `${h} h ${m} min` : m ? `${m} min ${s} s` : `${s} s`;
}

const ACTIONS = {
  "run.submit": "submitted the run", "run.begin": "began the run", "run.end": "ended the run", "run.admit": "decided on the run",
  "run.leave": "left the run", "view.build": "decided on the data view", "worker.connected": "connected its training process",
  "initial.release": "released the untrained model", "round.begin": "published the round's model", "round.end": "combined the replies",
  "round.ingress": "decided on the model received", "round.egress": "decided on the update to send", "evaluation.begin": "asked for an evaluation",
  "evaluation.egress": "decided on the evaluation to send", "message.refused": "refused a message", "message.failed": "failed to answer",
  "reply.late": "received a late reply", "silo.refused": "recorded a silo's refusal", "connection.refused": "turned a connection away",
};
const actionText = (entry) => ACTIONS[entry.action] || plain(entry.action);

function summary(facts) {
  const { submission, silos, begin, end, rounds, refusals } = facts;
  const admitted = silos.filter((silo) => silo.admission.decision === "allow");
  const refused = silos.filter((silo) => silo.admission.decision === "deny");
  const named = (items) => listed(items.map((silo) => {
    const country = [...(facts.parties.get(silo.name) || [])].join("/");
    return plain(silo.name) + (country ? ` (${plain(country)})` : "");
  }));
  const lines = [];
  if (submission) {
    lines.push(el("p", {}, `On ${dayOf(submission.time)} at ${clock(submission.time)} UTC, ${plain(shortName(submission.actor))} of the federation `,
      el("b", {}, plain(facts.federation)), " submitted the training run ", el("b", {}, plain(facts.run)),
      facts.purposes.length ? ` for the purpose ${plain(facts.purposes.join(", "))}` : "",
      facts.datasets.length ? ` on the dataset ${plain(facts.datasets.join(", "))}.` : ".",
      " The run and its program are fixed by their digests, and every party's decision below is on those digests."));
  } else {
    lines.push(el("p", {}, "This page shows what the parties below recorded about the run ", el("b", {}, plain(facts.run)), ". No log in it records who submitted the run."));
  }
  if (silos.length) {
    const parts = [];
    if (admitted.length) parts.push(`${named(admitted)} admitted it`);
    if (refused.length) parts.push(`${named(refused)} refused it`);
    lines.push(el("p", {}, `${count(silos.length, "silo")} decided on it, each under its own policy: ${parts.join("; ")}. `,
      admitted.length ? "Each that admitted it trained on its own rows; what left it are the releases listed below." : "No entry records that anything was trained or any data read."));
  }
  const finished = rounds.filter((round) => round.end).length;
  if (begin && finished) {
    const rows = admitted.reduce((sum, silo) => sum + (silo.view ? Number(silo.view.detail.rows) || 0 : 0), 0);
    lines.push(el("p", {}, `${count(finished, "round")} of training took place between ${clock(rounds[0].begin ? rounds[0].begin.time : begin.time)} and ${clock((end || facts.entries[facts.entries.length - 1]).time)} UTC`,
      rows ? ` over ${count(rows, "row")} in all, as the silos counted them.` : ".", ` ${count(silos.reduce((sum, silo) => sum + silo.releases.length, 0), "release")} left the silos, each after a decision of its own.`));
  }
  const outcome = end ? `The run ended: ${plain(end.detail.outcome || "no outcome recorded")}${end.reason ? ` (${plain(end.reason)})` : ""}.` : "No log in this page records that the run ended.";
  lines.push(el("p", {}, outcome, refusals.length
    ? ` ${count(refusals.length, "request was", "requests were")} refused; each is listed below with its rule and reason.`
    : " Nothing was refused."));
  return lines;
}

function tiles(facts) {
  const rows = facts.silos.reduce((sum, silo) => sum + (silo.view ? Number(silo.view.detail.rows) || 0 : 0), 0);
  const verified = facts.logs.reduce((sum, log) => sum + log.entries.length, 0);
  const tile = (value, name) => el("div", { class: "tile" }, el("b", {}, typeof value === "number" ? value.toLocaleString("en-GB") : value), el("span", {}, name));
  return el("div", { class: "tiles" },
    tile(facts.parties.size || facts.logs.length, "parties"), tile(facts.rounds.filter((round) => round.end || round.silos.size).length, "rounds"),
    tile(rows || "–", "rows used"), tile(facts.decisions[0][1], "allowed"),
    tile(facts.refusals.length, "refused"), tile(duration(facts.from, facts.to), "from first to last entry"), tile(verified, "entries verified"));
}

function checksSection(facts) {
  const marks = { good: ["✓", "holds"], warn: ["!", "note"], bad: ["✗", "does not hold"] };
  const items = facts.checks.map(({ state, title, text: words }) => el("li", { class: state },
    el("span", { class: "mark", "aria-hidden": "true" }, marks[state][0]), el("div", {}, el("b", {}, title), el("span", { class: "sr" }, ` (${marks[state][1]})`), `. ${plain(words)}`)));
  return section("checks", "What the logs show when they are compared", el("p", { class: "note" },
    "Each party signs its own log. Where a statement compares several, no single party can make it hold."), el("ul", { class: "checks" }, items));
}

function partiesSection(facts) {
  const rows = facts.logs.map((log) => {
    const name = memberOf(log.origin), own = facts.entries.filter((entry) => entry.log === log), silo = facts.silos.find((item) => item.log === log);
    const decided = ["allow", "deny"].map((decision) => String(own.filter((entry) => entry.decision === decision).length));
    const role = log === facts.coordinator ? "coordinator" : silo ? "silo" : "–";
    return [plain(name), role, plain([...(facts.parties.get(name) || ["–"])].join("/")), silo ? badge(silo.admission.decision) : "–", ...decided, String(own.length)];
  });
  const silent = [...facts.parties].filter(([name]) => !facts.logs.some((log) => memberOf(log.origin) === name));
  for (const [name, countries] of silent) rows.push([plain(name), "no log here", plain([...countries].join("/")), "–", "–", "–", "–"]);
  return section("parties", "Who took part, and where", table("Parties, their countries as the signed manifest states them, and what they decided",
    [["Party"], ["Role"], ["Country"], ["Decision on the run"], ["Allowed", 1], ["Refused", 1], ["Entries", 1]], rows),
    el("p", { class: "note" }, "Countries are what the members attest in the federation's manifest. The log shows that they were part of the decision; it cannot prove geography."));
}

function dataSection(facts) {
  if (!facts.silos.length) return null;
  const rows = facts.silos.map((silo) => [plain(silo.name), plain(silo.admission.detail.purpose), plain(silo.admission.detail.dataset),
    silo.view ? String(silo.view.detail.rows) : "–", silo.columns.length ? String(silo.columns.length) : "–", plain(silo.admission.reason)]);
  const policies = facts.silos.map((silo) => [plain(silo.name), silo.start ? plain(silo.start.detail.policy_version ?? "–") : "–", code(silo.admission.policy),
    plain(silo.admission.rule), plain(silo.admission.detail.location)]);
  const columns = facts.silos.filter((silo) => silo.columns.length).map((silo) => el("details", {}, el("summary", {}, `${plain(silo.name)}: ${count(silo.columns.length, "column")} read`),
    el("p", { class: "columns" }, plain(silo.columns.join(", ")))));
  const apart = facts.silos.filter((silo) => silo.worker && silo.view).map((silo) => [plain(silo.name), plain(silo.worker.detail.network), plain(silo.worker.detail.files)]);
  return section("data", "What was used, for what, and under which policy",
    table("Purpose and data", [["Silo"], ["Purpose"], ["Dataset"], ["Rows", 1], ["Columns", 1], ["Why it was decided so"]], rows), columns,
    table("Policies in force: the digest names the exact text of the policy", [["Silo"], ["Version", 1], ["Policy digest"], ["Deciding rule"], ["Place"]], policies),
    apart.length ? table("How the process that reads the data was kept apart, as it reported itself", [["Silo"], ["Network"], ["Files"]], apart) : null);
}

function roundsSection(facts) {
  const charts = [], norms = new Map(), metrics = new Map();
  for (const silo of facts.silos) norms.set(plain(silo.name), []);
  for (const round of facts.rounds) {
    for (const [name, { egress }] of round.silos) {
      if (!egress) continue;
      if (egress.decision === "allow" && Number.isSafeInteger(egress.detail.norm_micro)) (norms.get(plain(name)) || []).push([round.number, egress.detail.norm_micro / 1e6]);
      for (const [metric, value] of Object.entries((egress.payload && egress.payload.metrics) || {})) {
        if (typeof value !== "number" || metric === "num_examples") continue;
        if (!metrics.has(metric)) metrics.set(metric, new Map());
        const of = metrics.get(metric);
        if (!of.has(plain(name))) of.set(plain(name), []);
        of.get(plain(name)).push([round.number, value]);
      }
    }
  }
  const figure = (title, chart, words) => { if (chart) charts.push(el("figure", {}, el("figcaption", {}, el("b", {}, title), ` ${words}`), chart)); };
  figure("How much each silo's update changed the model.", lineChart("Norm of the update", norms, { fromZero: true, decimals: 2 }), "Euclidean norm of each update that was allowed out.");
  const first = ["auc", "loss", "accuracy"], rank = (name) => (first.includes(name) ? first.indexOf(name) : first.length);
  const shown = [...metrics].sort(([one], [two]) => rank(one) - rank(two) || (one < two ? -1 : 1)).slice(0, 6);
  for (const [metric, of] of shown) figure(`${plain(metric)} on each silo's own validation rows.`, lineChart(plain(metric), of, { fromZero: false, decimals: 3 }), "From payloads, each verified against its commitment.");
  const rows = facts.rounds.map((round) => {
    const silos = [...round.silos], matched = silos.filter(([, silo]) => silo.ingress && round.begin && silo.ingress.detail.model === round.begin.detail.model);
    const received = silos.filter(([, silo]) => silo.ingress).length, out = silos.filter(([, silo]) => silo.egress && silo.egress.decision === "allow").length;
    return [String(round.number), round.begin ? clock(round.begin.time) : "–", round.begin ? short(round.begin.detail.model) : "–",
      round.begin ? `${matched.length} of ${received}` : "–", String(out), round.end ? String(round.end.detail.examples ?? "–") : "–", round.end ? plain(round.end.detail.dropped || "none") : "–"];
  });
  return rows.length ? section("rounds", "The training, round by round", el("div", { class: "charts" }, charts),
    el("details", { open: rows.length <= 30 ? "" : null }, el("summary", {}, count(rows.length, "round")), table("Rounds as the coordinator and the silos recorded them",
      [["Round", 1], ["Began (UTC)"], ["Model published"], ["Received as published"], ["Updates sent", 1], ["Training rows", 1], ["Left out"]], rows, "dense"))) : null;
}

function refusalsSection(facts) {
  if (!facts.refusals.length) return section("refusals", "What was refused", el("p", {}, "No entry about this run records a refusal."));
  return section("refusals", "What was refused, by which rule, and why", table("Refusals", [["Party"], ["When (UTC)"], ["What"], ["Rule"], ["Reason"], ["Where in the policy"]],
    facts.refusals.map((entry) => [plain(entry.member), `${clock(entry.time)}`, actionText(entry), plain(entry.rule), plain(entry.reason), plain(entry.detail.location || "–")])));
}

function budgetSection(facts) {
  if (!facts.budget.length) return section("budget", "Privacy budget", el("p", {}, "No entry about this run records a debit of a privacy budget."));
  return section("budget", "Privacy budget spent", table("Entries that record the budget", [["Party"], ["When (UTC)"], ["What"], ["Round", 1], ["Recorded"]],
    facts.budget.map(({ entry, values }) => [plain(entry.member), clock(entry.time), actionText(entry), plain(entry.round ?? "–"), values.map(([name, value]) => `${plain(name)} ${plain(value)}`).join(", ")]), "dense"));
}

function entriesSection(facts) {
  const rows = facts.entries.map((entry) => {
    const detail = el("details", {}, el("summary", {}, actionText(entry)), el("pre", {}, plain(JSON.stringify({ ...entry, log: undefined, member: undefined, payload: entry.payload }, null, 1))));
    return [`${plain(entry.member)} ${entry.seq}`, clock(entry.time), detail, badge(entry.decision), plain(entry.round ?? ""), plain(entry.rule ?? ""), plain(entry.reason ?? "")];
  });
  return section("entries", "Every entry about this run", el("figure", {}, el("figcaption", {}, el("b", {}, "When each party recorded something."), " Filled: allowed. Hollow: recorded. Cross: refused. Times are each party's own clock, in UTC."), laneChart(facts)),
    el("details", { open: rows.length <= 500 ? "" : null }, el("summary", {}, "The entries"), table(`${count(facts.entries.length, "entry", "entries")} of ${count(facts.logs.length, "log")}, by time; open one to see all of it`, [["Log and number"], ["UTC"], ["What"], ["Decision"], ["Round", 1], ["Rule"], ["Reason"]], rows, "dense entries")));
}

function evidenceSection(facts) {
  const keys = facts.logs.map((log) => {
    const verdict = el("p", { class: "compare" }, "Not compared yet.");
    return { log, verdict, node: el("div", { class: "log" }, el("h3", {}, plain(log.origin)),
      el("dl", {}, el("dt", {}, "Verifier key"), el("dd", {}, code(log.key.vkey)), el("dt", {}, "Compared"), el("dd", {}, verdict),
        el("dt", {}, "Signed tree"), el("dd", {}, `${count(log.size, "entry", "entries")}, root `, code(log.root)),
        el("dt", {}, "In this page"), el("dd", {}, log.complete ? "all entries of the log up to this checkpoint" : `${count(log.entries.length, "selected entry", "selected entries")}, each with its inclusion proof`),
        log.witnesses.length ? [el("dt", {}, "Countersigned"), el("dd", {}, listed(log.witnesses.map((item) => `by ${plain(memberOf(item.witness))} at ${count(item.size, "entry", "entries")} (${dayOf(item.time)}, ${clock(item.time)} UTC)`)), log.witnesses.length < 8 ? "" : ". A page holds no more than the newest 8 countersignatures of a log.")] : null,
        el("dt", {}, "Signed checkpoint"), el("dd", {}, el("pre", {}, plain(log.checkpoint))))) };
  });
  const box = el("textarea", { id: "trusted", rows: "4", spellcheck: "false", "aria-describedby": "trusted-help" });
  box.addEventListener("input", () => {
    for (const { log, verdict } of keys) {
      const found = box.value.includes(log.key.vkey);
      verdict.textContent = !box.value.trim() ? "Not compared yet." : found ? "This key stands in what you pasted." : "This key does NOT stand in what you pasted.";
      verdict.className = `compare ${!box.value.trim() ? "" : found ? "good" : "bad"}`;
    }
  });
  return section("evidence", "The evidence, and how far it reaches",
    el("p", {}, "The seal says that the entries are exactly what these keys signed. Whose keys they are, this page cannot know. Take the keys from the federation's signed manifest, or from each party by another way than this file, and compare:"),
    el("div", { class: "screen" }, el("label", { for: "trusted" }, "Paste the manifest or the keys you trust"), box, el("p", { class: "note", id: "trusted-help" }, "Nothing you paste leaves this page: it can reach no network.")),
    keys.map((item) => item.node),
    el("h3", {}, "What this page does not show"),
    el("ul", {}, el("li", {}, "That what a party recorded is true. It shows that the party signed it and has not changed it since."),
      el("li", {}, "That you were given the latest state, or the only one: compare checkpoints with other parties' copies."),
      el("li", {}, "That this page's own program is untouched. ", el("code", {}, "concordat audit verify"), " on this file re-checks the evidence outside the browser and compares the page, byte for byte, with the one that this evidence gives.")));
}

const SEALS = { good: ["M29 51l14 14 29-31", "Verified", "in this browser"], bad: ["M33 33l34 34m0-34l-34 34", "Not verified", "do not rely on this page"], wait: ["M50 30v22l14 9", "Verifying", "one moment"] };

function seal(state, ...lines) {
  const [path, title, words] = SEALS[state];
  const drawing = svg("svg", { viewBox: "0 0 100 100", class: "stamp", "aria-hidden": "true" }, svg("circle", { cx: 50, cy: 50, r: 46, class: "ring" }), svg("circle", { cx: 50, cy: 50, r: 38, class: "disc" }), svg("path", { d: path, class: "sign" }));
  const node = document.getElementById("seal");
  node.className = `seal ${state}`;
  node.replaceChildren(drawing, el("div", {}, el("strong", {}, title), el("span", {}, ` ${words}`), lines.map((line) => el("p", {}, line))));
}

function show(facts) {
  const differs = facts.checks.some((check) => check.state === "bad");
  document.title = `Evidence of ${plain(facts.run)}`;
  document.getElementById("subject").replaceChildren(plain(facts.run));
  document.getElementById("when").replaceChildren(`Federation ${plain(facts.federation)} · ${dayOf(facts.from)}, ${clock(facts.from)} to ${facts.from.slice(0, 10) === facts.to.slice(0, 10) ? "" : `${dayOf(facts.to)}, `}${clock(facts.to)} UTC`);
  const total = facts.logs.reduce((sum, log) => sum + log.entries.length, 0);
  seal("good", `${count(total, "entry", "entries")} of ${count(facts.logs.length, "signed log")} ${total === 1 ? "is" : "are"} as their keys signed them.`,
    differs ? el("b", {}, "The logs contradict each other or what was agreed: see below.") : "");
  document.getElementById("foot").replaceChildren("Everything above was read from the signed entries in this file, and verified by the program in it, without any network.");
  document.getElementById("report").replaceChildren(...[section("summary", "In plain words", ...summary(facts), tiles(facts)), checksSection(facts), partiesSection(facts), dataSection(facts),
    roundsSection(facts), refusalsSection(facts), budgetSection(facts), evidenceSection(facts), entriesSection(facts)].filter(Boolean));
}

function showFailure(error) {
  const known = error instanceof Failure;
  document.title = "Evidence that does not verify";
  document.getElementById("subject").replaceChildren("This file does not verify");
  seal("bad", known && error.origin ? `Log ${plain(error.origin)}:` : "", plain(known ? error.message : `this page could not check its evidence: ${error.message}`));
  document.getElementById("report").replaceChildren(section("failure", "Nothing is shown",
    el("p", {}, "This file was changed after it was made, or damaged on the way, or one of the logs in it does not hold what was signed. Because it cannot be told which of its content is genuine, none of it is shown."),
    known && error.seq !== null ? el("p", { id: "bad-entry" }, `First bad entry: number ${error.seq}${error.origin ? ` of ${plain(error.origin)}` : ""}.`) : null,
    el("p", {}, "Ask for the file again, or for the logs themselves, and keep this one.")));
}
