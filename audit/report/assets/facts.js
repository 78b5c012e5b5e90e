// What the verified entries say about one run. Everything the page shows comes from here, and all of this from entries.

const shortName = (actor) => actor.split("/").pop() || actor;
const left = (entry) => /(^|\.)(egress|release)$/.test(entry.action) && entry.decision === "allow";
const memberOf = (origin) => { const parts = origin.split("/"); return parts[parts.length - 1]; };

function factsOf({ run, logs }) {
  const entries = [], context = [];
  for (const log of logs) {
    for (const entry of log.entries) {
      const item = { ...entry, log, member: memberOf(log.origin), payload: log.payloads.get(entry.seq) };
      if (entry.run === run) entries.push(item); else context.push(item);
    }
  }
  const byTime = (a, b) => (a.time < b.time ? -1 : a.time > b.time ? 1 : 0);
  entries.sort(byTime);
  const first = (action) => entries.find((entry) => entry.action === action);
  const all = (action) => entries.filter((entry) => entry.action === action);
  const submission = first("run.submit"), begin = first("run.begin"), end = all("run.end").pop();
  const coordinators = new Set([submission, begin, end].filter(Boolean).map((entry) => entry.log));
  const admissions = all("run.admit");
  const parties = new Map();
  for (const admission of admissions) {
    for (const party of String(admission.detail.parties || "").split(",").filter(Boolean)) {
      const [name, country] = party.split(":");
      if (!parties.has(name)) parties.set(name, new Set());
      parties.get(name).add(country || "");
    }
  }
  const silos = logs.filter((log) => admissions.some((entry) => entry.log === log)).map((log) => siloFacts(log, entries, context));
  const facts = {
    run, logs, entries, submission, begin, end, parties, silos,
    coordinator: [...coordinators][0] || null,
    federation: logs[0].origin.split("/")[0],
    from: entries[0].time, to: entries[entries.length - 1].time,
    purposes: [...new Set([submission, ...admissions].filter(Boolean).map((e) => e.detail.purpose).filter(Boolean))],
    datasets: [...new Set(admissions.map((e) => e.detail.dataset).filter(Boolean))],
    refusals: refusalsOf(entries),
    decisions: ["allow", "deny", "record"].map((name) => [name, entries.filter((e) => e.decision === name).length]),
    rounds: roundFacts(entries),
    budget: budgetFacts(entries),
  };
  facts.checks = checksOf(facts, context);
  return facts;
}

// The coordinator also records each silo's refusal: that one is left out where the silo's own entry is here.
const REPEATED = ["silo.refused", "model.release"];

function refusalsOf(entries) {
  const refused = entries.filter((entry) => entry.decision === "deny");
  const own = new Set(refused.map((entry) => entry.member));
  const repeats = (entry) => REPEATED.includes(entry.action) && entry.member !== String(entry.detail.silo);
  return refused.filter((entry) => !repeats(entry) || !own.has(String(entry.detail.silo)));
}

function siloFacts(log, entries, context) {
  const own = entries.filter((entry) => entry.log === log);
  const admission = own.filter((entry) => entry.action === "run.admit").pop();
  const view = own.filter((entry) => entry.action === "view.build").pop();
  const starts = context.filter((entry) => entry.log === log && entry.action === "gate.start" && entry.seq < admission.seq);
  const workers = [...own, ...context].filter((entry) => entry.log === log && entry.action === "worker.connected");
  const before = workers.filter((entry) => !view || entry.seq < view.seq).sort((a, b) => a.seq - b.seq);
  return {
    log, name: memberOf(log.origin), admission, view, start: starts.pop(), worker: before.pop() || workers[0],
    columns: view ? String(view.detail.columns || "").split(",").filter(Boolean) : [],
    releases: own.filter((entry) => left(entry) && entry.action !== "model.release"),
    refusals: own.filter((entry) => entry.decision === "deny"),
  };
}

function roundFacts(entries) {
  const rounds = new Map();
  const of = (number) => {
    if (!rounds.has(number)) rounds.set(number, { number, silos: new Map() });
    return rounds.get(number);
  };
  for (const entry of entries.filter((item) => item.round !== null)) {
    const round = of(entry.round);
    const silo = () => {
      if (!round.silos.has(entry.member)) round.silos.set(entry.member, {});
      return round.silos.get(entry.member);
    };
    if (entry.action === "round.begin") round.begin = entry;
    if (entry.action === "round.end") round.end = entry;
    if (entry.action === "round.ingress" && !silo().ingress) silo().ingress = entry;
    if (entry.action === "round.egress") silo().egress = entry;
  }
  return [...rounds.values()].sort((a, b) => a.number - b.number);
}

// Whatever entries record of a privacy budget: details whose names begin with epsilon, delta, budget or ledger.
function budgetFacts(entries) {
  const spent = entries.filter((entry) => Object.keys(entry.detail).some((name) => /^(epsilon|budget|ledger)/.test(name)));
  return spent.map((entry) => ({
    entry, values: Object.entries(entry.detail).filter(([name]) => /^(epsilon|delta|budget|ledger)/.test(name)),
  }));
}

// Comparisons between the parties' logs, which no party can make hold on its own.
function checksOf(facts, context) {
  const checks = [], { silos, rounds, coordinator, entries, logs } = facts;
  const add = (state, title, text) => checks.push({ state, title, text });
  const list = (items) => [...new Set(items)].join("; ");

  const announced = new Set([facts.begin, ...rounds.map((round) => round.begin)].filter(Boolean)
    .flatMap((entry) => String(entry.detail.silos || "").split(",").filter(Boolean)));
  const missing = [...announced].filter((name) => !silos.some((silo) => silo.name === name));
  if (!coordinator) add("warn", "The coordinator's log", "It is not part of this report, so what it recorded cannot be compared.");
  if (missing.length) add("warn", "Logs of all who took part", `Missing: ${missing.join(", ")}. What they decided is not shown here.`);
  else if (coordinator) add("good", "Logs of all who took part", `The coordinator's log is here, and those of all ${announced.size} silos that it names.`);

  const partial = logs.filter((log) => !log.complete);
  if (partial.length) add("warn", "Completeness", `Of ${partial.map((log) => memberOf(log.origin)).join(", ")} only selected entries are here: each is proved, but others about this run could have been left out.`);
  else add("good", "Completeness", "Every entry of every log up to its signed checkpoint is here, so none about this run can have been left out.");

  const differing = [], compared = [];
  for (const round of rounds.filter((item) => item.begin)) {
    for (const [name, silo] of round.silos) {
      if (!silo.ingress) continue;
      (silo.ingress.detail.model === round.begin.detail.model ? compared : differing).push(`round ${round.number}, ${name}`);
    }
  }
  if (differing.length) add("bad", "One model for all", `A silo received another model than the coordinator recorded: ${list(differing)}.`);
  else if (compared.length) add("good", "One model for all", `In all ${compared.length} cases the model a silo received is the one the coordinator had recorded for that round.`);

  const documents = new Set([facts.submission?.detail.digest, ...silos.map((silo) => silo.admission.detail.run_digest)].filter(Boolean));
  const apps = new Set([facts.submission?.detail.app, ...silos.map((silo) => silo.admission.detail.app)].filter(Boolean));
  if (documents.size > 1 || apps.size > 1) add("bad", "The same run for all", "The parties' logs name different run or program digests.");
  else if (documents.size && apps.size) add("good", "The same run for all", "Every party decided on the same signed run and the same program (equal digests).");
  else add("warn", "The same run for all", "No log here names the digests of the run and its program.");

  // The coordinator repeats what a silo said of a model's release; it has no admission of its own.
  const released = entries.filter((entry) => left(entry) && entry.log !== coordinator);
  const admitting = entries.filter((entry) => entry.action === "run.admit");
  const admittedBefore = (entry) => {
    const decided = admitting.filter((item) => item.log === entry.log && item.seq < entry.seq);
    return decided.length > 0 && decided.reduce((a, b) => (a.seq > b.seq ? a : b)).decision === "allow";
  };
  const unasked = released.filter((entry) => !admittedBefore(entry)).map((entry) => entry.member);
  if (unasked.length) add("bad", "Nothing left without a decision", `Something left before admission or after a refusal at ${list(unasked)}.`);
  else if (released.length) add("good", "Nothing left without a decision", "Each release follows an admission by that silo, and each carries its own decision.");

  const otherPolicy = entries.filter((entry) => entry.policy !== null && entry.decision !== "record"
    && silos.some((silo) => silo.log === entry.log && silo.admission.policy !== entry.policy));
  if (!silos.length) add("warn", "Policies", "No log here records a decision on the run under a policy.");
  else if (otherPolicy.length) add("warn", "Policies", `They changed during the run at ${list(otherPolicy.map((entry) => entry.member))}; see the table of policies.`);
  else add("good", "Policies", "Each silo decided under one and the same policy throughout the run.");

  const last = (log) => log.entries.filter((entry) => entry.run === facts.run).reduce((most, entry) => Math.max(most, entry.seq), -Infinity);
  const covered = logs.filter((log) => log.witnesses.some((item) => item.size > last(log)));
  const some = logs.filter((log) => log.witnesses.length && !covered.includes(log));
  const none = logs.filter((log) => !log.witnesses.length).map((log) => memberOf(log.origin));
  if (none.length) add("warn", "Witnesses", `No other party's signature on the log of ${none.join(", ")} is here: a second history of it could not be noticed.`);
  else if (some.length) add("warn", "Witnesses", `Other parties countersigned every log; of ${some.map((log) => memberOf(log.origin)).join(", ")} not yet all entries about the run.`);
  else add("good", "Witnesses", "Every log was countersigned by another party after its last entry about the run, so that a second history of it would have needed that party's help.");

  const separated = silos.filter((silo) => silo.worker && /empty|no network|denied/i.test(String(silo.worker.detail.network)));
  const working = silos.filter((silo) => silo.view && silo.view.decision === "allow");
  if (working.length) {
    const open = working.filter((silo) => !separated.includes(silo)).map((silo) => silo.name);
    if (open.length) add("warn", "Data apart from the network", `No entry shows that the training process at ${open.join(", ")} was without network.`);
    else add("good", "Data apart from the network", "At every silo the process that read the data reported that it had no network.");
  }

  const span = (entry) => entry.time >= facts.from && entry.time <= facts.to;
  const disturbed = [...entries, ...context.filter(span)].filter((entry) => entry.action === "log.recovered" || "clock_went_back_us" in entry.detail);
  if (disturbed.length) add("warn", "Disturbances", `${disturbed.map((entry) => `${entry.member} entry ${entry.seq}`).join(", ")}: a log was recovered after a crash, or a clock went backwards.`);
  else add("good", "Disturbances", "No log was recovered and no clock went backwards during the run.");
  return checks;
}
