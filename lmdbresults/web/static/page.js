// What a page gains with JavaScript: dates in the reader's zone, live updates, keys, and a choice of light or dark.
"use strict";

(() => {
  const root = document.documentElement;
  const choose = (theme) => { if (theme === "light" || theme === "dark") root.dataset.theme = theme; };
  try { choose(localStorage.getItem("lmdbresults-theme")); } catch { /* storage is switched off */ }

  // -- dates ---------------------------------------------------------------------------------------------------------

  const two = (number) => String(number).padStart(2, "0");
  const clock = (date) => `${two(date.getHours())}:${two(date.getMinutes())}`;
  const day = (date) => `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "local time";

  function ago(date) {
    const past = (Date.now() - date) / 1000;
    const size = Math.abs(past);
    const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
    const [unit, name] = units.find(([seconds]) => size >= seconds) || [1, "s"];
    if (size < 1) return "now";
    return past > 0 ? `${Math.floor(size / unit)} ${name} ago` : `in ${Math.floor(size / unit)} ${name}`;
  }

  function written(date, form) {
    if (form === "clock") return clock(date);
    if (form === "ago") return ago(date);
    const time = `${clock(date)}:${two(date.getSeconds())}`;
    return day(date) === day(new Date()) ? time : `${day(date)} ${time}`;
  }

  function localize(within) {
    for (const element of within.querySelectorAll("time[datetime]")) {
      const date = new Date(element.dateTime);
      element.textContent = written(date, element.dataset.form);
      element.title = `${day(date)} ${clock(date)}:${two(date.getSeconds())} ${zone}, ${ago(date)}`;
    }
    for (const element of within.querySelectorAll("svg [data-time]")) {
      const time = clock(new Date(element.dataset.time));
      if (element.localName === "title") element.textContent = element.textContent.replace(/^\d\d:\d\d/, time);
      else element.textContent = time;
    }
  }

  // -- live updates --------------------------------------------------------------------------------------------------

  const SHORTEST_PAUSE = 300;
  const SHARE = 10; // a page that takes long to make is asked for less often
  let isAsking = false, isStale = false, isPaused = false;

  function show(state, text) {
    const pulse = document.getElementById("pulse");
    if (!pulse) return;
    pulse.dataset.live = state;
    pulse.title = state === "live" ? "This page shows changes as they happen" : "The server cannot be reached; trying again";
    pulse.querySelector("b").textContent = text;
  }

  // Keep what the reader has opened, scrolled to and marked.
  function replace(now, then) {
    const opened = [...now.querySelectorAll("details[open][id]")].map((element) => element.id);
    const scrolled = [...now.querySelectorAll(".scroll, .picture, pre")].map((element) => [element.scrollLeft, element.scrollTop]);
    const at = [...now.querySelectorAll(".rows tbody tr")].findIndex((row) => row.classList.contains("at"));
    now.replaceChildren(...then.childNodes);
    for (const id of opened) document.getElementById(id)?.setAttribute("open", "");
    now.querySelectorAll(".scroll, .picture, pre").forEach((element, place) => {
      if (scrolled[place]) [element.scrollLeft, element.scrollTop] = scrolled[place];
    });
    now.querySelectorAll(".rows tbody tr")[at]?.classList.add("at");
  }

  const isBusy = (region) =>
    region.contains(document.activeElement) && document.activeElement.matches("input, button, summary") ||
    String(document.getSelection()) !== "" && region.contains(document.getSelection().anchorNode);

  async function refresh() {
    isStale = true;
    const region = document.querySelector("[data-live]#live");
    if (isAsking || document.hidden || !region) return;
    isAsking = true;
    while (isStale && !document.hidden) {
      isStale = false;
      const began = performance.now();
      try {
        const answer = await fetch(location.href, { headers: { accept: "text/html" }, credentials: "same-origin" });
        if (answer.redirected) { location.reload(); return; } // to log in: the session has ended
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        const fresh = page.querySelector("[data-live]#live");
        if (fresh && isBusy(region)) isPaused = true;
        else if (fresh) {
          localize(fresh);
          replace(region, fresh);
        }
      } catch { /* the stream says that the server is gone, and when it is back */ }
      await new Promise((resolve) => setTimeout(resolve, Math.max(SHORTEST_PAUSE, SHARE * (performance.now() - began))));
    }
    isAsking = false;
    if (isStale) refresh();
  }

  let events = null, wasLost = false;

  function connect() {
    events = new EventSource(`${document.body.dataset.base}/events`);
    events.onopen = () => {
      show("live", "live");
      const region = document.getElementById("live");
      if (wasLost || "old" in region.dataset) refresh(); // newer figures may have been there before the stream was
      wasLost = false;
      delete region.dataset.old;
    };
    events.onerror = () => { show("lost", "no server"); wasLost = true; };
    events.addEventListener("changed", () => {
      const pulse = document.getElementById("pulse");
      delete pulse.dataset.new;
      requestAnimationFrame(() => { pulse.dataset.new = ""; });
      refresh();
    });
  }

  function listen() {
    if (!document.getElementById("live") || !window.EventSource) return;
    if (!document.hidden) connect();
    document.addEventListener("visibilitychange", () => {
      events?.close(); // a browser opens six connections to a host: hidden tabs must leave them to the others
      if (!document.hidden) { connect(); refresh(); }
    });
    document.addEventListener("selectionchange", () => { if (isPaused) { isPaused = false; refresh(); } });
    document.addEventListener("focusout", () => { if (isPaused) { isPaused = false; refresh(); } });
    addEventListener("pagehide", () => events?.close());
    addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
  }

  // -- keys ----------------------------------------------------------------------------------------------------------

  function move(by) {
    const rows = [...document.querySelectorAll(".rows tbody tr")].filter((row) => row.querySelector("a"));
    if (!rows.length) return;
    const at = rows.findIndex((row) => row.classList.contains("at"));
    rows[at]?.classList.remove("at");
    const next = rows[at < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.min(Math.max(at + by, 0), rows.length - 1)];
    next.classList.add("at");
    next.scrollIntoView({ block: "nearest" });
  }

  const go = (page) => location.assign(`${document.body.dataset.base}/${page}`);
  const KEYS = {
    "/": () => document.getElementById("search")?.focus(),
    j: () => move(1), k: () => move(-1),
    Enter: () => document.querySelector(".rows tr.at a")?.click(),
    o: () => go(""), l: () => go("tasks"), g: () => go("groups"), c: () => go("chords"), q: () => go("queues"),
    t: () => document.getElementById("theme")?.click(),
    Escape: () => document.querySelectorAll("details.action[open]").forEach((element) => element.removeAttribute("open")),
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches("input, textarea, select")) { if (event.key === "Escape") event.target.blur(); return; }
    if (event.key === "Enter" && event.target.matches("a, button, summary")) return;
    if (Object.hasOwn(KEYS, event.key)) {
      event.preventDefault();
      KEYS[event.key]();
    }
  });

  document.addEventListener("DOMContentLoaded", () => {
    localize(document);
    document.querySelectorAll("#theme, footer .keys").forEach((element) => { element.hidden = false; });
    document.getElementById("theme")?.addEventListener("click", () => {
      const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
      choose(isDark ? "light" : "dark");
      try { localStorage.setItem("lmdbresults-theme", root.dataset.theme); } catch { /* storage is switched off */ }
    });
    document.querySelectorAll(".chip input").forEach((box) => box.addEventListener("change", () => box.form.requestSubmit()));
    listen();
  });
})();
