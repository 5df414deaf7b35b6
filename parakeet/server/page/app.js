// The page: what its buttons and keys do, and the replies as they come.

import { Failure, call, events, health, hooks, kept } from "./api.js";
import { harmless, make } from "./markdown.js";
import { address, drawSessions, importSession, markSession, openMenu } from "./sessions.js";
import { openSettings, released } from "./settings.js";
import { adopt, branches, leaf, path, put, state } from "./state.js";
import { atEnd, drawExchange, drawText, drawThread, editMessage, sends, toEnd } from "./thread.js";
import { hideAlternatives, moveAlternatives } from "./tokens.js";
import { openTrace } from "./trace.js";
import { announce, ask, closePanel, copy, count, counted, element, openPanel, panelKind, toast } from "./ui.js";

const field = element("message");
const WAITS = [1, 2, 4, 8, 15, 30]; // seconds before each new try to reach a server that is gone
const LOOK_EVERY = 15_000; // milliseconds between looks whether the server is there

// The conversation that is open.

const draftName = (session = state.session) => `draft ${session?.name ?? ""}`;

function setDraft(text) {
	field.value = text;
	keepDraft();
}

/** The conversation that the address names. */
function named() {
	try {
		return decodeURIComponent(location.hash.slice(1));
	} catch {
		return "";
	}
}

function keepDraft() {
	kept.set(draftName(), field.value);
	field.style.height = "auto";
	field.style.height = `${Math.min(field.scrollHeight + 2, innerHeight * 0.4)}px`;
}

/** Shows a conversation, or an empty one for null. */
function show(session) {
	const same = session && session.name === state.session?.name;
	if (!same && ["trace", "settings"].includes(panelKind())) closePanel();
	hideAlternatives();
	state.session = session;
	if (state.about && !same) state.settings = { ...released(), ...session?.settings };
	const name = session?.name ?? "";
	if (named() !== name) history.pushState(null, "", name ? `#${encodeURIComponent(name)}` : location.pathname);
	element("title").textContent = name || "New conversation";
	document.title = name ? `${name} – Parakeet` : "Parakeet";
	setDraft(same ? field.value : kept.get(draftName()));
	drawThread();
	drawState();
	markSession();
	toEnd();
}

/** The parts around the conversation: the button that sends or stops, and the context. */
function drawState() {
	const live = state.live.get(state.session?.name);
	element("session-menu").hidden = !state.session?.exchanges.length || state.session.at === "new";
	const send = element("send");
	const [name, label, icon] = live ? ["stop", "Stop", "stop"] : ["send", "Send", "send"];
	send.dataset.action = name;
	send.type = live ? "button" : "submit";
	send.title = live ? "Stop (Esc)" : "Send (Enter)";
	send.setAttribute("aria-label", label);
	send.querySelector("use").setAttribute("href", `#i-${icon}`);
	const context = state.session?.context ?? { used: 0, limit: state.about?.context ?? 0 };
	const meter = element("context");
	meter.max = context.limit || 1;
	meter.high = meter.max * 0.8;
	meter.value = context.used;
	const left = context.dropped ? ` · ${counted(context.dropped, "exchange")} left out` : "";
	element("used").textContent = context.limit ? `${count(context.used)} of ${count(context.limit)} tokens${left}` : "";
}

async function open(name) {
	const live = state.live.get(name);
	if (live) return show(live.session);
	try {
		const session = adopt(await call("GET", address(name)));
		if (named() === name) show(session);
	} catch (failure) {
		if (failure.status === 0) return;
		toast(failure.message);
		show(null);
	}
}

function route() {
	const name = named();
	closeSidebar();
	if (!name) show(null);
	else if (name !== state.session?.name) open(name);
}

/** What the server has of a conversation now: another window or a terminal may have gone on with it. */
async function refresh(session) {
	const fresh = await call("GET", address(session.name)).catch(() => null);
	if (!fresh || state.live.has(session.name) || document.querySelector("#thread .editing")) return;
	const facts = ({ at, system, exchanges }) => JSON.stringify([at, system, exchanges.map((each) => [each.reply, each.finish_reason])]);
	if (facts(fresh) === facts(session)) return;
	Object.assign(session, adopt(fresh));
	if (session !== state.session) return;
	drawThread();
	drawState();
}

function comeBack() {
	if (!state.online || !state.about) return;
	drawSessions();
	if (state.session) refresh(state.session);
}

// Replies.

/** Asks for a reply. `request` is the body of POST …/replies. */
async function reply(request) {
	if (state.session && state.live.has(state.session.name)) return;
	let session = state.session;
	const draft = request.message ?? "";
	if (request.kind === "reply") setDraft("");
	try {
		if (!session) {
			session = adopt(await call("POST", "/api/sessions", {}));
			if (state.system) session = adopt(await call("PATCH", address(session.name), { system: state.system }));
			state.system = "";
			state.session = session;
			history.replaceState(null, "", `#${encodeURIComponent(session.name)}`);
			element("title").textContent = session.name;
		}
	} catch (failure) {
		if (draft) setDraft(draft);
		if (failure.name !== "AbortError") toast(failure.message);
		return;
	}
	session.failure = null;
	await stream(session, request, draft);
}

/** The exchange of a request, until the server has given it a number. */
function provisional(session, request) {
	const target = session.byId.get(request.exchange);
	if (request.kind === "continue") return target;
	const parent = request.kind === "reply" ? session.at : (target.parent ?? null);
	return put(session, { id: "new", parent, message: request.message ?? target.message, reply: "", tokens: 0, raw: target?.raw });
}

async function stream(session, request, draft) {
	const abort = new AbortController();
	const before = session.at;
	const live = { session, abort, exchange: provisional(session, request) };
	const earlier = request.kind === "continue" ? live.exchange.reply : "";
	session.at = live.exchange.id;
	state.live.set(session.name, live);
	const here = () => session === state.session;
	if (here()) {
		drawThread();
		drawState();
		toEnd();
	}
	announce("The model is replying.");
	let begun = false;
	let ended = false;
	let failed = null;
	let frame = 0;
	const started = performance.now();
	let first = 0;
	const draw = () => {
		frame = 0;
		const seconds = (performance.now() - first) / 1000;
		const rate = live.count > 1 && seconds > 0.2 ? ` · ${((live.count - 1) / seconds).toFixed(1)} tokens/s` : "";
		drawText(session, live.exchange, `${counted(live.count, "token")}${rate} · first after ${((first - started) / 1000).toFixed(2)} s`);
	};
	try {
		for await (const event of events(`${address(session.name)}/replies`, request, abort.signal)) {
			if (event.type === "start") {
				begun = true;
				if (request.kind !== "continue") {
					remove(session, live.exchange);
					live.exchange = put(session, { ...event.exchange, reply: "" });
					session.at = live.exchange.id;
					if (here()) drawThread();
				}
			} else if (event.type === "text") {
				first ||= performance.now();
				live.count = event.tokens;
				live.exchange.reply += event.text;
				frame ||= requestAnimationFrame(draw);
			} else if (event.type === "end") {
				session.context = event.context ?? session.context;
				session.notes = event.notes ?? session.notes;
				// The model had nothing to say, and an empty reply is not kept.
				begun = event.exchange.id !== null;
				if (!begun) throw new Failure(0, "The model ended its reply before the first word.");
				ended = true;
				put(session, event.exchange);
				live.exchange.same = event.same ?? undefined;
				session.at = live.exchange.id;
			}
		}
	} catch (failure) {
		failed = failure.name === "AbortError" ? null : failure;
	}
	cancelAnimationFrame(frame);
	if (!begun) {
		if (request.kind !== "continue") remove(session, live.exchange);
		session.at = before;
		if (draft) restore(session, draft);
	} else if (!ended) {
		Object.assign(live.exchange, { finish_reason: "interrupted", tokens: live.count ?? 0, seed: live.exchange.seed ?? "unknown" });
		// The server ends a reply one step after its reader has left.
		await settled(session, live.exchange);
		// One without a word is not kept.
		if (draft && !session.byId.has(live.exchange.id)) restore(session, draft);
	}
	state.live.delete(session.name);
	// Numbers have no gaps: another window made what is missing here.
	if (ended && live.exchange.id >= session.exchanges.length) {
		await refresh(session);
		put(session, live.exchange);
	}
	if (failed) session.failure = failed.message;
	if (here()) {
		const stay = atEnd();
		drawThread();
		drawState();
		if (stay) toEnd();
	}
	if (failed) announce(failed.message);
	else if (ended) announce(`${live.exchange.reply.slice(earlier.length)} ${live.exchange.same === undefined ? "" : live.exchange.same ? "The same, word for word." : "Not the same."}`);
	else announce("Stopped.");
	drawSessions();
}

function remove(session, exchange) {
	session.exchanges.splice(session.exchanges.indexOf(exchange), 1);
	session.byId.delete(exchange.id);
}

/** Puts a message that was not sent back into the field, before what was written since. */
function restore(session, draft) {
	if (session !== state.session) return kept.set(draftName(session), draft);
	setDraft(field.value.trim() ? `${draft}\n${field.value}` : draft);
}

/** Waits until the server has recorded what was shown of a reply, and takes over what it has. */
async function settled(session, exchange) {
	for (let tries = exchange.reply ? 20 : 1; tries && state.online; tries--) {
		await new Promise((resolve) => setTimeout(resolve, 100));
		const fresh = await call("GET", address(session.name)).catch(() => null);
		const recorded = fresh?.exchanges.find((each) => each.id === exchange.id);
		if (fresh && (tries === 1 || (recorded?.finish_reason && recorded.reply.length >= exchange.reply.length))) {
			return Object.assign(session, adopt(fresh));
		}
	}
}

async function sendMessage() {
	if (!field.value.trim()) return;
	if (!state.online) await look();
	if (!state.online) return toast("The server cannot reply yet. Your message stays here.");
	const message = field.value;
	if (!message.trim() || state.live.has(state.session?.name)) return;
	reply({ kind: "reply", message, exchange: state.session?.at ?? undefined, settings: state.settings });
}

function stop() {
	const live = state.live.get(state.session?.name);
	live?.abort.abort();
	return Boolean(live);
}

// What the buttons of an exchange do.

const ON_EXCHANGE = {
	"copy-message": (_, exchange) => copy(exchange.message),
	"copy-reply": (_, exchange) => copy(exchange.reply),
	edit: (session, exchange) =>
		editMessage(session, exchange, (message) => message && reply({ kind: "edit", exchange: exchange.id, message, settings: state.settings })),
	retry: (_, exchange) => reply({ kind: "retry", exchange: exchange.id, settings: { ...state.settings, seed: null } }),
	again: (_, exchange) => reply({ kind: "again", exchange: exchange.id }),
	continue: (_, exchange) => reply({ kind: "continue", exchange: exchange.id, settings: state.settings }),
	async branch(session, exchange, { side, step }) {
		const at = branches(session, exchange);
		const all = side === "message" ? at.messages : at.replies;
		const next = all[(side === "message" ? at.message : at.reply) + Number(step)];
		if (!next) return;
		const before = session.at;
		session.at = leaf(session, next).id;
		drawThread();
		try {
			const { context, notes } = await call("PATCH", address(session.name), { at: session.at });
			Object.assign(session, { context, notes });
			// Not always: a message may be edited by now.
			if (notes.length) drawThread();
		} catch (failure) {
			session.at = before;
			toast(failure.message);
			drawThread();
		}
		drawState();
		drawSessions();
	},
	async tokens(session, exchange) {
		await toggle(session, exchange, "tokens", async () => await call("POST", `${address(session.name)}/tokens`, { exchange: exchange.id }));
	},
	async trace(session, exchange) {
		await toggle(session, exchange, "trace", async () => ({ trace: await call("POST", "/v1/trace", { input: exchange.reply }) }));
		const view = state.views.get(exchange);
		if (view?.kind === "trace") openTrace(view.trace);
		else if (panelKind() === "trace") closePanel(false);
	},
};

/** Shows a reply in another way, or as text again. */
async function toggle(session, exchange, kind, get) {
	hideAlternatives();
	if (kind !== "trace" && panelKind() === "trace") closePanel(false);
	if (state.views.get(exchange)?.kind === kind) {
		state.views.delete(exchange);
	} else {
		try {
			state.views.set(exchange, { kind, ...(await get()) });
		} catch (failure) {
			toast(failure.message);
		}
	}
	drawExchange(session, exchange);
}

// What the other buttons do.

const narrow = matchMedia("(max-width: 56rem)");

function openSidebar() {
	document.body.classList.add("listed");
	element("shade").hidden = false;
	document.querySelector("[data-action=close-sidebar]").focus();
}

function closeSidebar() {
	if (!document.body.classList.contains("listed")) return false;
	document.body.classList.remove("listed");
	element("shade").hidden = true;
	document.querySelector("[data-action=open-sidebar]").focus();
	return true;
}

function startNew() {
	closeSidebar();
	show(null);
	field.focus();
}

function changed(name, to) {
	if (state.session?.name === name) {
		if (to) {
			state.session.name = to;
			kept.set(draftName(), field.value);
			show(state.session);
		} else {
			setDraft("");
			show(null);
		}
	}
	drawSessions();
}

function setTheme() {
	const dark = matchMedia("(prefers-color-scheme: dark)").matches;
	const root = document.documentElement.dataset;
	const next = { light: "dark", dark: "light" }[root.theme ?? (dark ? "dark" : "light")];
	// Back at what the system has, it follows the system again.
	if (next === (dark ? "dark" : "light")) delete root.theme;
	else root.theme = next;
	try {
		if (root.theme) localStorage.setItem("theme", root.theme);
		else localStorage.removeItem("theme");
	} catch {
		// Forbidden: it lasts as long as the page.
	}
	nameTheme();
}

function nameTheme() {
	const dark = (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
	const words = dark ? "Light colours" : "Dark colours";
	element("theme").title = words;
	element("theme").setAttribute("aria-label", words);
}

const KEYS = [
	["Enter", "sends the message"],
	["Shift Enter", "begins a new line"],
	["Esc", "stops the reply, or closes what is open"],
	["↑", "in an empty field: edits your last message"],
	["Alt N", "new conversation"],
	["Alt K", "searches the conversations"],
	["Alt R", "another reply to the last message"],
	["Alt S", "settings"],
	["← →", "in a reply’s tokens: from one to the next"],
	["?", "this list"],
];

function openHelp() {
	const keys = KEYS.flatMap(([key, words]) => [
		make("dt", {}, ...key.split(" ").map((each) => make("kbd", {}, each))),
		make("dd", {}, words),
	]);
	openPanel(
		"help", "Keys and help",
		make("dl", { className: "keys" }, ...keys),
		make("h3", {}, "Under each reply"),
		make("p", {}, "“Another reply” keeps both: ‹ 1/2 › leads from one to the other. “Same again” repeats a reply with its seed and says whether it came out the same, word for word."),
		make("p", {}, "The bars show what else the model could have said: choose a word for its five likeliest alternatives. The book marks what stands in the training text, and opens the documents."),
		make("h3", {}, "This server"),
		make("p", {}, state.about?.trace ? "" : "It has no index of the training text: parakeet index build makes one."),
		make("p", {}, `Programs that speak OpenAI’s protocol use ${location.origin}/v1.`),
	);
}

const ACTIONS = {
	"open-sidebar": openSidebar,
	"close-sidebar": closeSidebar,
	"close-panel": () => closePanel(),
	"session-menu": (at) => openMenu(at, state.session.name, (to) => changed(state.session.name, to)),
	"row-menu": (at) => {
		const { name } = at.closest("li").dataset;
		openMenu(at, name, (to) => changed(name, to));
	},
	new: startNew,
	stop,
	theme: setTheme,
	newest: toEnd,
	help: () => (panelKind() === "help" ? closePanel() : openHelp()),
	settings: () => state.about && (panelKind() === "settings" ? closePanel() : openSettings()),
	import: () => element("file").click(),
	"copy-code": (at) => copy(at.closest(".code").querySelector("code").textContent),
	retry: look,
};

document.addEventListener("click", (event) => {
	const at = event.target.closest("[data-action]");
	if (!at || at.disabled) return;
	const article = at.closest("article");
	const session = state.session;
	const exchange = article && session?.exchanges.find((each) => String(each.id) === article.dataset.exchange);
	const { action } = at.dataset;
	if (exchange && action in ON_EXCHANGE) ON_EXCHANGE[action](session, exchange, at.dataset);
	else ACTIONS[action]?.(at);
});

element("shade").onclick = closeSidebar;
element("composer").onsubmit = (event) => {
	event.preventDefault();
	sendMessage();
};
field.oninput = keepDraft;
field.onkeydown = (event) => {
	if (sends(event)) {
		event.preventDefault();
		sendMessage();
	} else if (event.key === "ArrowUp" && !field.value && state.session) {
		const last = path(state.session).at(-1);
		if (last && !state.live.has(state.session.name)) {
			event.preventDefault();
			ON_EXCHANGE.edit(state.session, last);
		}
	}
};
element("file").onchange = async ({ target }) => {
	const [file] = target.files;
	target.value = "";
	const name = file && (await importSession(file));
	if (name) {
		drawSessions();
		location.hash = encodeURIComponent(name);
	}
};

let searching = 0;
element("search").oninput = () => {
	clearTimeout(searching);
	searching = setTimeout(drawSessions, 200);
};

element("thread").onscroll = () => {
	element("newest").hidden = atEnd();
	moveAlternatives();
};

document.addEventListener("keydown", (event) => {
	if (event.isComposing || element("dialog").open) return;
	const typing = event.target.matches?.("input, textarea");
	if (event.key === "Escape") {
		if (!element("alternatives").hidden) hideAlternatives();
		else if (!stop() && !closePanel()) closeSidebar();
	} else if (event.key === "?" && !typing) {
		ACTIONS.help();
	} else if (event.altKey && !event.ctrlKey && !event.metaKey) {
		// By place: with Alt, a Mac's keys give other letters.
		const act = {
			KeyN: startNew,
			KeyS: ACTIONS.settings,
			KeyK() {
				if (narrow.matches) openSidebar();
				element("search").focus();
			},
			KeyR() {
				const last = state.session && path(state.session).at(-1);
				if (last && !state.live.has(state.session.name)) ON_EXCHANGE.retry(state.session, last);
			},
		}[event.code];
		if (act) {
			event.preventDefault();
			act();
		}
	}
});

addEventListener("hashchange", route);
addEventListener("resize", hideAlternatives);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", nameTheme);

// The server, and whether it is there.

let tries = 0;
let waiting = 0;

hooks.answered = (there) => {
	if (there || !state.online) return;
	state.online = false;
	tries = 0;
	wait("gone");
};

hooks.askKey = async (refused) =>
	(await ask({
		title: "This server asks for its key",
		text: refused ? "The key was not accepted." : "Whoever started the server has it. It is kept until you close this tab.",
		accept: "Go on",
		field: { label: "Key", input: { type: "password" } },
	})) ?? "";

/** Says that the server is away, and when it is asked again. */
function wait(why) {
	clearTimeout(waiting);
	let seconds = why === "loading" ? 2 : WAITS[Math.min(tries++, WAITS.length - 1)];
	const banner = element("banner");
	const left = make("span", { "aria-hidden": "true" });
	const words = why === "loading" ? "The server is loading its model." : "The server does not answer. What you write is kept.";
	banner.replaceChildren(make("span", {}, words), left, make("button", { type: "button", className: "plain", data: { action: "retry" } }, "Try now"));
	banner.hidden = false;
	const tick = () => {
		left.textContent = `Next try in ${seconds} s.`;
		waiting = seconds-- > 0 ? setTimeout(tick, 1000) : setTimeout(look, 0);
	};
	tick();
}

async function look() {
	clearTimeout(waiting);
	if (document.hidden && state.online && state.about) return;
	const found = await health();
	if (found !== "ready") {
		state.online = false;
		return wait(found);
	}
	clearTimeout(waiting);
	const back = !state.online || !state.about;
	state.online = true;
	if (back) element("banner").hidden = true;
	await load(back);
	waiting = setTimeout(look, LOOK_EVERY);
}

/** What the server tells of its model, which a newly promoted one may replace; with `back`, the conversations too. */
async function load(back) {
	const before = state.about;
	try {
		state.about = await call("GET", "/api/about");
	} catch (failure) {
		if (failure.status && failure.status !== 503) {
			const retry = make("button", { type: "button", className: "plain", data: { action: "retry" } }, "Try again");
			element("banner").replaceChildren(make("span", {}, failure.status === 401 ? "This server wants its key." : harmless(failure.message)), retry);
			element("banner").hidden = false;
		}
		return;
	}
	element("model").textContent = `${state.about.model} · ${state.about.dtype}`;
	if (before && before.model !== state.about.model) toast(`Now ${state.about.model} replies.`);
	state.settings ??= released();
	if (!back) return;
	drawSessions();
	if (!before) {
		route();
		return;
	}
	toast("Connected again.");
	if (state.session && !state.live.has(state.session.name)) {
		state.session.failure = null;
		await refresh(state.session);
		drawThread();
	}
}

document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && look().then(comeBack));
addEventListener("focus", comeBack);
for (const each of document.querySelectorAll("button[aria-label]:not([title])")) each.title = each.ariaLabel;
nameTheme();
setDraft(kept.get("draft "));
field.focus();
look();
