// What the pages do by themselves: show news as they come, times in the reader's zone, and a question before
// what cannot be undone. Without it every page still works. What comes from elsewhere is only ever text.
"use strict";

const page = document.documentElement;
const FINAL = ["completed", "partial", "failed", "cancelled"];
const REFRESH_MS = 2000;
const LOOK_AGAIN_MS = 10000;

const clock = new Intl.DateTimeFormat(page.lang, {dateStyle: "short", timeStyle: "medium"});

function localise(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    time.title = time.textContent;
    time.textContent = clock.format(new Date(time.dateTime));
  }
}

// Fresh regions: the page is asked for again, and what changed of it takes the place of what is shown.

let isAsking = false;
let timer = 0;

function refreshSoon() {
  timer ||= setTimeout(() => { timer = 0; refresh(); }, REFRESH_MS);
}

async function refresh() {
  if (document.hidden) return;
  if (isAsking) return refreshSoon();
  isAsking = true;
  try {
    const answer = await fetch(location.href, {redirect: "manual", signal: AbortSignal.timeout(15000)});
    if (answer.type === "opaqueredirect") return location.reload();  // the session has ended
    if (answer.status >= 500) return refreshSoon();
    if (answer.ok) replace(new DOMParser().parseFromString(await answer.text(), "text/html"));
  } catch {
    refreshSoon();  // the network; what is shown stays
  } finally {
    isAsking = false;
  }
}

function replace(fresh) {
  for (const old of document.querySelectorAll("[data-live]")) {
    const now = fresh.getElementById(old.id);
    if (!now) continue;
    localise(now);
    // Not under the hands of a reader who is about to use it.
    if (!old.isEqualNode(now) && !old.contains(document.activeElement)) old.replaceWith(document.adoptNode(now));
  }
}

// News: one stream a page.

// The words for states in the page's language.
const states = JSON.parse(document.body.dataset.states ?? "{}");

function show(row, status) {
  const badge = row.querySelector("[data-status]");
  badge.className = `badge ${status}`;
  badge.textContent = states[status];
}

function showJob(job) {
  const row = document.querySelector(`[data-job="${CSS.escape(job.job_id)}"]`);
  if (row) {
    show(row, job.status);
    row.querySelector("[data-progress]").value = job.progress_percentage;
    row.querySelector("[data-counts]").textContent = `${job.completed_documents}/${job.total_documents}`;
    if (FINAL.includes(job.status) && row.dataset.final === "no") announce(job.status);
  }
  refreshSoon();
}

function announce(status) {
  document.getElementById("news").textContent = `${document.title}: ${states[status]}`;
}

// Only while somebody looks: a browser has few connections for all its tabs.
let stream = null;
let isOver = false;

function follow(url) {
  if (stream || isOver || document.hidden) return;
  stream = new EventSource(url);
  stream.addEventListener("job", event => {
    const job = JSON.parse(event.data);
    showJob(job);
    // The stream of one job has nothing more to say then.
    isOver = url !== "/dashboard/events" && FINAL.includes(job.status);
    if (isOver) unfollow();
  });
  stream.addEventListener("documents", event => {
    for (const one of JSON.parse(event.data).documents) {
      const row = document.querySelector(`[data-document="${CSS.escape(one.id)}"]`);
      if (row) show(row, one.status);
    }
  });
  stream.addEventListener("error", () => {
    // A browser comes again by itself unless it was answered with something else than a stream.
    if (stream?.readyState !== EventSource.CLOSED) return;
    unfollow();
    setTimeout(() => follow(url), LOOK_AGAIN_MS * (0.5 + Math.random()));
  });
}

function unfollow() {
  stream?.close();
  stream = null;
}

addEventListener("pagehide", unfollow);

document.addEventListener("submit", event => {
  const form = event.target;
  if (form.dataset.ask && !confirm(form.dataset.ask)) event.preventDefault();
});

localise(document);
if (document.body.dataset.stream) {
  follow(document.body.dataset.stream);
  // Figures age without news, too.
  if (document.getElementById("figures")) setInterval(refresh, LOOK_AGAIN_MS);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return unfollow();
    follow(document.body.dataset.stream);
    refresh();
  });
}
addEventListener("pageshow", event => { if (event.persisted) location.reload(); });
