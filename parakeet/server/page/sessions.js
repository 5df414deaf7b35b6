// The list of conversations.

import { call, text_of } from "./api.js";
import { harmless, make } from "./markdown.js";
import { state } from "./state.js";
import { ago, ask, button, counted, element, menu, save, toast } from "./ui.js";

export const address = (name) => `/api/sessions/${encodeURIComponent(name)}`;

let latest = 0;

/** Asks for the list again. An answer that a later question has overtaken is dropped. */
export async function drawSessions() {
	const question = ++latest;
	const words = element("search").value.trim();
	let found;
	try {
		found = (await call("GET", `/api/sessions?search=${encodeURIComponent(words)}`)).sessions;
	} catch (failure) {
		if (question === latest && failure.status) element("sessions-note").textContent = failure.message;
		return;
	}
	if (question !== latest) return;
	const note = found.length ? "" : words ? "No conversation has these words." : "Conversations appear here after their first reply.";
	if (element("sessions-note").textContent !== note) element("sessions-note").textContent = note;
	const focus = document.activeElement?.closest("#sessions li")?.dataset.name;
	element("sessions").replaceChildren(...found.map(row));
	if (focus) document.querySelector(`#sessions li[data-name="${CSS.escape(focus)}"] a`)?.focus();
}

/** Marks the open conversation. */
export function markSession() {
	for (const each of element("sessions").children) {
		const link = each.querySelector("a");
		if (each.dataset.name === state.session?.name) link.setAttribute("aria-current", "page");
		else link.removeAttribute("aria-current");
	}
}

function row(session) {
	const words = session.problem || session.first_words || "Empty conversation";
	const link = make("a", { href: `#${encodeURIComponent(session.name)}` },
		make("span", { className: "first", dir: "auto" }, harmless(words)),
		make("span", { className: "facts" }, `${session.name} · ${ago(session.when)}`));
	link.title = counted(session.exchanges, "exchange");
	if (session.name === state.session?.name) link.setAttribute("aria-current", "page");
	const more = button("row-menu", "more", `Rename, export or delete ${session.name}`);
	more.setAttribute("aria-haspopup", "menu");
	return make("li", { className: session.problem ? "damaged" : "", data: { name: session.name } }, link, more);
}

/** The menu of a conversation. `changed` gets its new name, or null after it was deleted. */
export function openMenu(anchor, name, changed) {
	menu(anchor, [
		["edit", "Rename…", () => rename(name, changed)],
		["export", "Export as JSONL", () => exportSession(name)],
		["trash", "Delete…", () => remove(name, changed)],
	]);
}

async function rename(name, changed) {
	const given = await ask({
		title: "Rename the conversation",
		accept: "Rename",
		field: {
			label: "Name: letters, digits, dots, dashes and underscores",
			input: { value: name, maxLength: 64 },
			async check(value) {
				if (value === name) return "";
				try {
					await call("PATCH", address(name), { name: value });
					return "";
				} catch (failure) {
					return failure.message;
				}
			},
		},
	});
	if (given && given !== name) changed(given);
}

async function exportSession(name) {
	try {
		save(`${name}.jsonl`, await text_of("GET", `${address(name)}/file`), "application/jsonl");
	} catch (failure) {
		toast(failure.message);
	}
}

async function remove(name, changed) {
	const sure = await ask({
		title: `Delete ${name}?`,
		text: "The conversation and all its branches are deleted from this machine’s disk.",
		accept: "Delete",
		danger: true,
	});
	if (!sure) return;
	try {
		await call("DELETE", address(name));
		toast(`${name} is deleted.`);
		changed(null);
	} catch (failure) {
		toast(failure.message);
	}
}

/** Takes in a session file. Returns the name that it got, or null. */
export async function importSession(file) {
	const name = file.name.replace(/\.jsonl$/i, "").replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[.-]+/, "").slice(0, 60) || "imported";
	try {
		const session = await call("POST", `/api/sessions/import?name=${encodeURIComponent(name)}`, await file.text());
		toast(`${session.name} is imported.`);
		return session.name;
	} catch (failure) {
		toast(failure.message);
		return null;
	}
}
