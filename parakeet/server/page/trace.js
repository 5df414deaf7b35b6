// Where the words of a reply stand in the training text.

import { harmless, make } from "./markdown.js";
import { count, counted, openPanel, percent } from "./ui.js";

const CLASSES = { copied: "t-copied", "common phrase": "t-common", boilerplate: "t-boilerplate" };
const TIERS = Object.keys(CLASSES);
const MOST_LISTED = 200;

/** The reply with its spans marked. The server counts characters, and a JavaScript string counts units of 16 bits. */
export function renderTrace(text, reply, trace) {
	const characters = Array.from(reply);
	const edges = [0, characters.length, ...trace.spans.flatMap((span) => [span.start, span.end])];
	const cuts = [...new Set(edges)].filter((cut) => cut <= characters.length).sort((a, b) => a - b);
	text.classList.add("traced");
	let first = 0;
	for (let number = 0; number + 1 < cuts.length; number++) {
		const [start, end] = [cuts[number], cuts[number + 1]];
		while (first < trace.spans.length && trace.spans[first].end <= start) first++;
		const inside = [];
		for (let at = first; at < trace.spans.length && trace.spans[at].start < end; at++) inside.push(trace.spans[at]);
		const piece = harmless(characters.slice(start, end).join(""));
		text.append(inside.length ? mark(piece, inside, trace) : piece);
	}
}

function mark(piece, spans, trace) {
	const [span] = telling(spans);
	const found = make("mark", { className: CLASSES[span.tier] ?? "", role: "button", tabIndex: 0, data: { span: span.number } }, piece);
	found.setAttribute("aria-label", `${piece} – ${span.tier}, ${often(span)}`);
	found.title = `${span.tier}, ${often(span)}`;
	const open = () => openTrace(trace, telling(spans));
	found.onclick = open;
	found.onkeydown = (event) => {
		if (event.key !== "Enter" && event.key !== " ") return;
		event.preventDefault();
		open();
	};
	return found;
}

const telling = (spans) =>
	[...spans].sort((a, b) => TIERS.indexOf(a.tier) - TIERS.indexOf(b.tier) || b.tokens - a.tokens || a.number - b.number);

const often = ({ count: times, documents }) =>
	`${{ 1: "once", 2: "twice" }[times] ?? `${count(times)} times`} in ${documents === null ? "many documents" : counted(documents, "document")}`;

/** The panel: the figures of the trace, then the documents of the spans. */
export function openTrace(trace, spans = telling(trace.spans)) {
	const all = spans.length === trace.spans.length;
	const held = trace.held_out?.coverage;
	openPanel(
		"trace",
		"Where is this from?",
		make("p", { className: "verdict" }, trace.spans.length
			? `${percent(trace.coverage)} of ${counted(trace.tokens, "token")} stand word for word in the training text.`
			: `No ${counted(trace.min_tokens, "token")} in a row stand in the training text.`),
		held && make("p", { className: "note" }, `Of text that it never saw, ${percent(held.share)} do${
			held.interval ? ` (${percent(held.interval[0])} to ${percent(held.interval[1])})` : ""}. Only the difference says something.`),
		make("p", { className: "notice" }, trace.caveat),
		make("ul", { className: "legend", "aria-label": "Kinds of passages" }, ...TIERS.map((tier) =>
			make("li", {}, make("mark", { className: CLASSES[tier] }, tier), ` ${count(trace.spans.filter((span) => span.tier === tier).length)}`))),
		...spans.slice(0, MOST_LISTED).map(card),
		spans.length > MOST_LISTED && make("p", { className: "note" }, `The first ${count(MOST_LISTED)} of ${count(spans.length)}.`),
		!all && make("button", { type: "button", className: "plain", onclick: () => openTrace(trace) }, `All ${counted(trace.spans.length, "passage")}`),
	);
}

function card(span) {
	return make(
		"section",
		{ className: "span" },
		make("h3", {}, make("span", { className: `pill ${CLASSES[span.tier] ?? ""}` }, span.tier), ` ${often(span)}`),
		make("p", { className: "note" }, `${counted(span.tokens, "token")}; expected by chance: 10`, make("sup", {}, span.expected_log10.toFixed(0))),
		...span.places.map((place) =>
			make("figure", {},
				make("blockquote", { dir: "auto" }, place.begins ? "" : "… ", harmless(place.before),
					make("mark", { className: CLASSES[span.tier] ?? "" }, harmless(place.match)), harmless(place.after), place.ends ? "" : " …"),
				make("figcaption", {}, make("b", {}, harmless(place.source)), ` ${origin(place.origin)}`,
					make("span", { className: "id" }, `${place.doc_id.slice(0, 12)}, from token ${count(place.start)}`)))),
	);
}

/** What the record of a document told of itself: its title, file and row, an id. */
const origin = (values) => harmless(Object.entries(values).map(([name, value]) => `${name} ${value}`).join(", "));
