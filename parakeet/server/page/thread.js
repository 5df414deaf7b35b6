// The conversation in the middle of the page.

import { harmless, make, render } from "./markdown.js";
import { branches, path, state } from "./state.js";
import { renderTokens } from "./tokens.js";
import { renderTrace } from "./trace.js";
import { button, count, counted, element, icon } from "./ui.js";

const thread = element("thread");

/** Draws the whole conversation again. What had the focus keeps it, at the same place of the path. */
export function drawThread() {
	const session = state.session;
	const shown = session ? path(session) : [];
	const focus = focused();
	thread.replaceChildren(
		...(shown.length ? shown.map((exchange, number) => article(session, exchange, number === shown.length - 1)) : [empty()]),
		...notes(session),
	);
	refocus(focus);
}

/** Draws one exchange again. */
export function drawExchange(session, exchange) {
	const before = view(session, exchange);
	if (!before) return;
	const focus = focused();
	before.replaceWith(article(session, exchange, path(session).at(-1) === exchange));
	refocus(focus);
}

const view = (session, exchange) =>
	session === state.session ? thread.querySelector(`[data-exchange="${CSS.escape(exchange.id)}"]`) : null;

/** What had the focus before a reply took it away, and what has it meanwhile. */
let meant = null;

function focused() {
	if (meant && document.activeElement === meant.instead) return meant.focus;
	const at = document.activeElement?.closest?.("article");
	const { action, side, step } = document.activeElement?.dataset ?? {};
	return at && action ? { action, side, step, number: [...thread.children].indexOf(at) } : null;
}

function refocus(focus) {
	if (!focus) return;
	const at = thread.children[focus.number] ?? thread;
	const side = focus.side ? `[data-side=${focus.side}]` : "";
	const step = focus.step ? `[data-step="${focus.step}"]` : "";
	const same = at.querySelector(`[data-action=${focus.action}]${side}${step}`);
	const usable = same && !same.disabled ? same : (at.querySelector(`[data-action]${side}:not(:disabled)`) ?? thread);
	meant = usable !== same && state.live.has(state.session?.name) ? { focus, instead: usable } : null;
	usable.focus({ preventScroll: true });
}

/** More text of a reply that is being written. */
export function drawText(session, exchange, rate) {
	const at = view(session, exchange);
	if (!at) return;
	const stay = atEnd();
	render(at.querySelector(".reply .text"), exchange.reply);
	at.querySelector(".figures").textContent = rate;
	if (stay) toEnd();
}

export const atEnd = () => thread.scrollHeight - thread.scrollTop - thread.clientHeight < 80;

export function toEnd() {
	thread.scrollTop = thread.scrollHeight;
}

function empty() {
	const about = state.about;
	const facts = about && [
		about.model,
		`${compact(about.parameters)} parameters`,
		`${count(about.context)} tokens of context`,
		`${about.dtype} on ${about.device}`,
	];
	return make(
		"div",
		{ className: "empty" },
		icon("bird"),
		make("h2", {}, "Say something."),
		facts && make("p", { className: "facts" }, facts.join(" · ")),
		make("p", { className: "lead" }, "Everything stays on this machine: the model, your words and its replies."),
	);
}

const compact = (number) => Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 }).format(number);

function notes(session) {
	return [...(session?.notes ?? []), ...(session?.failure ? [session.failure] : [])].map((text) =>
		make("p", { className: "notice warn", role: "note" }, harmless(text)),
	);
}

function article(session, exchange, last) {
	const at = branches(session, exchange);
	const writing = state.live.get(session.name)?.exchange === exchange;
	const busy = state.live.has(session.name);
	const found = make(
		"article",
		{ data: { exchange: exchange.id } },
		message(exchange, at, busy),
		reply(exchange, at, { writing, busy, last }),
	);
	if (writing) found.setAttribute("aria-busy", "true");
	return found;
}

function pager(at, all, side, what, busy) {
	if (all.length < 2) return null;
	const previous = button("branch", "left", `Previous ${what}`);
	const next = button("branch", "right", `Next ${what}`);
	Object.assign(previous.dataset, { side, step: -1 });
	Object.assign(next.dataset, { side, step: 1 });
	previous.disabled = busy || at === 0;
	next.disabled = busy || at === all.length - 1;
	return make("span", { className: "pager", role: "group", "aria-label": `${what} ${at + 1} of ${all.length}` },
		previous, make("span", {}, `${at + 1}/${all.length}`), next);
}

function message(exchange, at, busy) {
	const edit = button("edit", "edit", "Edit this message");
	edit.disabled = busy;
	return make(
		"section",
		{ className: "message", "aria-label": exchange.raw ? "Text" : "Your message" },
		make("h2", { className: "who" }, exchange.raw ? "Text to continue" : "You"),
		make("div", { className: "bubble", dir: "auto" }, harmless(exchange.message)),
		make("div", { className: "tools" }, pager(at.message, at.messages, "message", "version of this message", busy), edit,
			button("copy-message", "copy", "Copy this message")),
	);
}

function reply(exchange, at, { writing, busy, last }) {
	const shown = writing ? undefined : state.views.get(exchange);
	const text = make("div", { className: "text", dir: "auto" });
	if (shown?.kind === "tokens") renderTokens(text, shown.tokens);
	else if (shown?.kind === "trace") renderTrace(text, exchange.reply, shown.trace);
	else render(text, exchange.reply);
	return make(
		"section",
		{ className: `reply${writing ? " writing" : ""}`, "aria-label": "Reply" },
		make("h2", { className: "who" }, state.session?.model ?? state.about?.model ?? "Model"),
		exchange.dropped ? make("p", { className: "note" }, leftOut(exchange.dropped)) : null,
		text,
		writing ? make("p", { className: "figures" }, "reading your message…") : ending(exchange, last && !busy),
		writing ? null : tools(exchange, at, shown, busy),
	);
}

const leftOut = (dropped) =>
	`${counted(dropped, "earlier exchange")} did not fit into the context and ${dropped === 1 ? "was" : "were"} left out.`;

const FINISHED = {
	stop: () => "finished",
	length: (exchange) => `cut at ${counted(exchange.tokens, "token")}`,
	context: () => "cut: the context is full",
	interrupted: () => "stopped",
};

function ending(exchange, mayContinue) {
	const words = (FINISHED[exchange.finish_reason] ?? (() => exchange.finish_reason))(exchange);
	const cut = exchange.finish_reason !== "stop";
	const same = exchange.same === undefined ? null : make("span", { className: `pill ${exchange.same ? "good" : "warn"}` },
		exchange.same ? "the same, word for word" : "not the same");
	return make(
		"p",
		{ className: "ending" },
		cut ? make("span", { className: "pill" }, words) : null,
		same,
		cut && mayContinue ? button("continue", "forward", "Continue this reply", "Continue") : null,
	);
}

function figures({ tokens, timing, seed, finish_reason }) {
	const found = [counted(tokens, "token")];
	if (timing?.decode_rate) found.push(`${timing.decode_rate.toFixed(1)} tokens/s`);
	if (timing?.first_token_seconds) found.push(`first after ${timing.first_token_seconds.toFixed(2)} s`);
	found.push(`seed ${seed}`);
	if (finish_reason === "stop") found.push("finished");
	return found.join(" · ");
}

function tools(exchange, at, shown, busy) {
	const retry = button("retry", "retry", "Another reply, kept beside this one");
	const again = button("again", "again", "Same again: the same message, settings and seed");
	const tokens = button("tokens", "tokens", "What else it could have said, token by token");
	const trace = state.about?.trace ? button("trace", "trace", "Where is this from? Look it up in the training text") : null;
	for (const each of [retry, again]) each.disabled = busy;
	tokens.setAttribute("aria-pressed", String(shown?.kind === "tokens"));
	trace?.setAttribute("aria-pressed", String(shown?.kind === "trace"));
	return make(
		"div",
		{ className: "tools" },
		pager(at.reply, at.replies, "reply", "reply", busy),
		button("copy-reply", "copy", "Copy this reply"),
		retry, again, tokens, trace,
		make("span", { className: "figures" }, figures(exchange)),
	);
}

/** Puts a field in place of a message. `accept` gets the new text, or null. */
export function editMessage(session, exchange, accept) {
	const at = view(session, exchange)?.querySelector(".message");
	if (!at) return;
	const field = make("textarea", { value: exchange.message, "aria-label": "Your message, edited", rows: 2 });
	const finish = (text) => {
		drawExchange(session, exchange);
		if (text) element("message").focus();
		else view(session, exchange)?.querySelector("[data-action=edit]").focus();
		accept(text);
	};
	const form = make("form", { className: "editing" }, field, make("div", { className: "row end" },
		make("button", { type: "button", className: "plain", onclick: () => finish(null) }, "Cancel"),
		make("button", { className: "strong" }, "Send")));
	form.onsubmit = (event) => {
		event.preventDefault();
		if (field.value.trim()) finish(field.value);
	};
	field.onkeydown = (event) => {
		if (sends(event)) form.requestSubmit();
		if (event.key === "Escape" && !event.isComposing) finish(null);
		if (sends(event) || event.key === "Escape") {
			event.preventDefault();
			event.stopPropagation();
		}
	};
	at.replaceChildren(make("h2", { className: "who" }, "You"), form);
	field.focus();
}

/** Enter, but not while a word is being composed (Safari says 229 for the Enter that ends it). */
export const sends = (event) => event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229;
