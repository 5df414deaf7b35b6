// The tokens of a reply, each with what else could have stood there.

import { harmless, make } from "./markdown.js";
import { element, percent } from "./ui.js";

const card = element("alternatives");
let shown = null;

/** Tokens as `POST …/tokens` gives them. Arrow keys move between them, and one of them takes the focus by Tab. */
export function renderTokens(text, tokens) {
	const parts = tokens.map((token, number) => {
		const part = make("span", { className: `token ${likely(token.probability)}`, role: "button", tabIndex: number ? -1 : 0 });
		part.textContent = harmless(token.text) || "\ufffd";
		part.setAttribute("aria-label", `${spoken(token.text)}, ${percent(token.probability, 1)}`);
		part.token = token;
		return part;
	});
	text.classList.add("tokens");
	text.setAttribute("role", "group");
	text.setAttribute("aria-label", "The reply in tokens. Arrow keys move between them.");
	text.append(...parts);
	const of = (event) => event.target.closest?.(".token");
	text.onpointerover = (event) => event.pointerType === "mouse" && of(event) && show(of(event));
	text.onpointerleave = (event) => event.pointerType === "mouse" && document.activeElement?.closest(".token") === null && hideAlternatives();
	text.onclick = (event) => of(event)?.focus();
	text.addEventListener("focusin", (event) => {
		for (const part of parts) part.tabIndex = part === of(event) ? 0 : -1;
		show(of(event));
	});
	text.addEventListener("focusout", hideAlternatives);
	text.onkeydown = (event) => {
		const at = parts.indexOf(of(event));
		const to = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: parts.length - 1 }[event.key];
		if (to === undefined) return;
		event.preventDefault();
		parts[Math.max(0, Math.min(parts.length - 1, to))].focus();
	};
}

const likely = (probability) => (probability >= 0.9 ? "sure" : probability >= 0.5 ? "likely" : probability >= 0.1 ? "open" : "rare");

/** White space as a sign that can be seen. */
const visible = (text) => harmless(text).replace(/ /g, "␣").replace(/\n/g, "⏎").replace(/\t/g, "⇥") || "(nothing)";
const spoken = (text) => harmless(text).trim() || (text.includes("\n") ? "new line" : text ? "space" : "nothing");

function show(part) {
	if (shown === part) return;
	shown?.classList.remove("chosen");
	shown = part;
	part.classList.add("chosen");
	const { token } = part;
	const rows = token.alternatives.map((each) =>
		make("li", { className: each.text === token.text ? "taken" : "" },
			make("span", { className: "piece" }, visible(each.text)),
			make("meter", { value: each.probability, max: 1, "aria-hidden": "true" }),
			make("span", { className: "n" }, percent(each.probability, 1))),
	);
	const taken = token.alternatives.some((each) => each.text === token.text);
	card.replaceChildren(
		make("p", {}, make("b", { className: "piece" }, visible(token.text)), ` had ${percent(token.probability, token.probability < 0.01 ? 3 : 1)}`,
			taken ? "" : ", and was not among the five likeliest"),
		make("ol", {}, ...rows),
	);
	card.hidden = false;
	place();
}

function place() {
	// After the first line of a token that is broken over two.
	const at = shown.getClientRects()[0];
	const above = at.bottom + card.offsetHeight + 12 > innerHeight;
	card.style.left = `${Math.max(8, Math.min(at.left - 12, innerWidth - card.offsetWidth - 8))}px`;
	card.style.top = `${above ? at.top - card.offsetHeight - 8 : at.bottom + 8}px`;
}

/** Follows the token after the page has moved, as far as it can be seen. */
export function moveAlternatives() {
	if (!shown) return;
	const room = shown.closest("#thread").getBoundingClientRect();
	const at = shown.getBoundingClientRect();
	if (at.bottom < room.top || at.top > room.bottom) hideAlternatives();
	else place();
}

export function hideAlternatives() {
	shown?.classList.remove("chosen");
	shown = null;
	card.hidden = true;
}
