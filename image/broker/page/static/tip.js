// The text beside the pointer, of the stream and of the charts.

import { say } from "./text.js";

const tip = document.getElementById("tip");

export function showTip(event, text) {
  tip.hidden = false;
  say(tip, text);
  const room = innerWidth - tip.offsetWidth - 8;
  tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, room))}px`;
  const below = event.clientY + 16 + tip.offsetHeight < innerHeight;
  tip.style.top = `${below ? event.clientY + 16 : event.clientY - 12 - tip.offsetHeight}px`;
}

export function hideTip() {
  tip.hidden = true;
}
