// Small things that every part of the page uses.

import { harmless, make } from "./markdown.js";

export const element = (id) => document.getElementById(id);

export function icon(name) {
	const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
	svg.setAttribute("class", "icon");
	svg.setAttribute("aria-hidden", "true");
	const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
	use.setAttribute("href", `#i-${name}`);
	svg.append(use);
	return svg;
}

/** A button with an icon. Without `words`, `label` is read out and shown when pointed at. */
export function button(action, name, label, words = "") {
	const found = make("button", { type: "button", className: words ? "quiet" : "quiet round", title: label, data: { action } });
	if (name) found.append(icon(name));
	if (words) found.append(make("span", {}, words));
	if (words !== label) found.setAttribute("aria-label", label);
	return found;
}

export const count = (number) => Number(number).toLocaleString("en");
export const counted = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;
export const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)}%`;

/** "12 minutes ago", or the date. */
export function ago(time) {
	const then = new Date(time);
	const seconds = (Date.now() - then) / 1000;
	if (Number.isNaN(seconds)) return "";
	if (seconds < 60) return "just now";
	if (seconds < 3600) return `${counted(Math.floor(seconds / 60), "minute")} ago`;
	if (seconds < 86400) return `${counted(Math.floor(seconds / 3600), "hour")} ago`;
	return then.toLocaleDateString("en-GB", { day: "numeric", month: "short", year: "numeric" });
}

/** Reads a text out with a screen reader. */
export function announce(text) {
	element("live").textContent = harmless(text);
}

let leaving = 0;

/** A short message over the page, also read out. */
export function toast(text) {
	const place = element("toast");
	place.textContent = harmless(text);
	place.hidden = false;
	clearTimeout(leaving);
	leaving = setTimeout(() => (place.hidden = true), 4000 + 50 * text.length);
}

/**
 * A question over the page. With `field` ({label, value, type, pattern, hint}) it resolves to the text, otherwise to
 * true; to null if the person leaves it. `field.check` gives a promise of a message that says what is wrong, or "".
 */
export function ask({ title, text, accept, field, danger }) {
	const dialog = element("dialog");
	const input = field && make("input", { value: "", required: true, autocomplete: "off", id: "answer", ...field.input });
	const problem = make("p", { className: "problem", role: "alert" });
	const form = make(
		"form",
		{ method: "dialog" },
		make("h2", { id: "dialog-title" }, title),
		text && make("p", {}, text),
		field && make("label", { htmlFor: "answer" }, field.label),
		input,
		problem,
		make(
			"div",
			{ className: "row end" },
			make("button", { type: "button", className: "plain", data: { action: "leave" } }, "Cancel"),
			make("button", { className: danger ? "danger" : "strong" }, accept),
		),
	);
	const before = document.activeElement;
	dialog.replaceChildren(form);
	dialog.showModal();
	input?.select();
	return new Promise((resolve) => {
		let result = null;
		form.onsubmit = async (event) => {
			event.preventDefault();
			const value = field ? input.value : true;
			const wrong = field?.check ? await field.check(value) : "";
			problem.textContent = wrong;
			if (wrong) return;
			result = value;
			dialog.close();
		};
		form.querySelector("[data-action=leave]").onclick = () => dialog.close();
		dialog.onclose = () => {
			if (before?.isConnected) before.focus();
			resolve(result);
		};
	});
}

export async function copy(text) {
	try {
		await navigator.clipboard.writeText(text);
		toast("Copied.");
	} catch {
		// Without https and not on this machine, browsers have only the old way.
		const field = make("textarea", { value: text, className: "hidden" });
		document.body.append(field);
		field.select();
		toast(document.execCommand("copy") ? "Copied." : "The browser does not allow copying.");
		field.remove();
	}
}

/** Offers a text as a file. */
export function save(name, text, type) {
	const url = URL.createObjectURL(new Blob([text], { type }));
	make("a", { href: url, download: name }).click();
	setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** A menu at a button: [[icon, words, what to do], …]. */
export function menu(anchor, entries) {
	const place = element("menu");
	const buttons = entries.map(([name, words, act]) => {
		const entry = make("button", { type: "button", role: "menuitem", tabIndex: -1 }, icon(name), make("span", {}, words));
		entry.onclick = () => {
			place.hidePopover();
			anchor.focus();
			act();
		};
		return entry;
	});
	place.replaceChildren(...buttons);
	place.showPopover();
	const at = anchor.getBoundingClientRect();
	place.style.left = `${Math.max(8, Math.min(at.left, innerWidth - place.offsetWidth - 8))}px`;
	place.style.top = `${Math.min(at.bottom + 4, innerHeight - place.offsetHeight - 8)}px`;
	buttons[0].focus();
	place.onkeydown = (event) => {
		const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
		if (step) {
			event.preventDefault();
			buttons[(buttons.indexOf(document.activeElement) + step + buttons.length) % buttons.length].focus();
		}
		if (event.key === "Escape" || event.key === "Tab") {
			event.preventDefault();
			event.stopPropagation();
			place.hidePopover();
			anchor.focus();
		}
	};
}

let opener = null;

/** Shows something in the panel at the right. `kind` says what it is; the same again closes it. */
export function openPanel(kind, title, ...content) {
	const panel = element("panel");
	if (panel.hidden) opener = document.activeElement;
	element("panel-title").textContent = title;
	element("panel-body").replaceChildren(...content);
	panel.dataset.kind = kind;
	panel.hidden = false;
	document.body.classList.add("panelled");
	element("panel-body").scrollTop = 0;
	element("panel-title").focus();
}

export function closePanel(refocus = true) {
	const panel = element("panel");
	if (panel.hidden) return false;
	panel.hidden = true;
	panel.dataset.kind = "";
	document.body.classList.remove("panelled");
	if (refocus && opener?.isConnected) opener.focus();
	return true;
}

export const panelKind = () => element("panel").dataset.kind ?? "";
