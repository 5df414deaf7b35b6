// The panel of settings: the system message, and how the tokens of a reply are chosen.

import { call } from "./api.js";
import { make } from "./markdown.js";
import { adopt, state } from "./state.js";
import { button, openPanel, toast } from "./ui.js";

/** The settings that the release came with. */
export const released = () => Object.fromEntries(state.about.settings.map(({ name, value }) => [name, value]));

const equal = (one, other) => JSON.stringify(one ?? null) === JSON.stringify(other ?? null);

export function openSettings() {
	openPanel("settings", "Settings", systemField(), make("h3", {}, "The next replies"), resetButton(), ...state.about.settings.map(field));
}

function systemField() {
	const area = make("textarea", { id: "system", rows: 3, value: state.session?.system ?? state.system });
	area.onchange = async () => {
		const { session } = state;
		if (!session) {
			state.system = area.value;
			return;
		}
		try {
			adopt(Object.assign(session, await call("PATCH", `/api/sessions/${session.name}`, { system: area.value })));
			toast("The system message is changed.");
		} catch (failure) {
			toast(failure.message);
		}
	};
	return make("div", { className: "field" }, make("label", { htmlFor: "system" }, "System message"), area,
		make("p", { className: "note" }, "Stands before the conversation, from the next message on. A model that was not trained with one may not follow it."));
}

function resetButton() {
	const reset = button("reset", "retry", "Back to the release's settings", "Back to the release’s");
	reset.disabled = state.about.settings.every(({ name, value }) => equal(state.settings[name], value));
	reset.onclick = () => {
		state.settings = released();
		openSettings();
	};
	return reset;
}

function field(setting) {
	const { name, help } = setting;
	const id = `setting-${name}`;
	const input = INPUTS[setting.kind](setting, state.settings[name]);
	input.id = id;
	input.setAttribute("aria-describedby", `${id}-help`);
	const problem = make("p", { className: "problem", role: "alert" });
	const was = make("span", { className: "note" });
	const show = () => {
		was.textContent = equal(state.settings[name], setting.value) ? "" : `the release’s: ${written(setting.value)}`;
	};
	input.onchange = () => {
		const value = read(setting, input);
		problem.textContent = value === undefined ? `Give ${setting.expected}.` : "";
		input.setAttribute("aria-invalid", String(value === undefined));
		if (value === undefined) return;
		state.settings[name] = value;
		show();
		document.querySelector("[data-action=reset]")?.replaceWith(resetButton());
	};
	show();
	const label = make("label", { htmlFor: id }, name.replaceAll("_", " "));
	return make("div", { className: `field ${setting.kind}` }, label, input, make("p", { className: "note", id: `${id}-help` }, help, " "), was, problem);
}

const INPUTS = {
	number: ({ minimum, maximum }, value) => make("input", { type: "number", step: "any", value, ...limits(minimum, maximum) }),
	whole: ({ minimum, maximum }, value) => make("input", { type: "number", step: 1, value, ...limits(minimum, maximum) }),
	switch: (_, value) => make("input", { type: "checkbox", checked: Boolean(value) }),
	texts: (_, value) => make("textarea", { rows: 2, value: (value ?? []).join("\n"), placeholder: "one a line" }),
	seed: (_, value) => make("input", { inputMode: "numeric", autocomplete: "off", value: value ?? "", placeholder: "random" }),
};

const limits = (minimum, maximum) => ({
	...(minimum === undefined || minimum === null ? {} : { min: minimum }),
	...(maximum === undefined || maximum === null ? {} : { max: maximum }),
});

/** The value of a field, or undefined if it cannot be one. */
function read({ kind }, input) {
	if (kind === "switch") return input.checked;
	if (kind === "texts") return input.value.split("\n").filter(Boolean);
	const text = input.value.trim();
	if (kind === "seed") {
		if (!text) return null;
		if (!/^\d{1,20}$/.test(text) || BigInt(text) >= 2n ** 64n) return undefined;
		return text.length < 16 ? Number(text) : text;
	}
	return text && input.validity.valid ? Number(text) : undefined;
}

function written(value) {
	if (value === null || value === undefined) return "random";
	if (typeof value === "boolean") return value ? "on" : "off";
	if (Array.isArray(value)) return value.length ? value.map((text) => JSON.stringify(text)).join(", ") : "none";
	return String(value);
}
