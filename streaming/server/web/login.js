// The login: a token for a session cookie, then back to where one wanted to go.
import { api } from "./api.js";
import { byId, setText } from "./dom.js";

/** Only a place on this very site, as the browser itself understands the address: it skips tabs and line ends in one. */
function destination() {
  const next = new URL(new URLSearchParams(location.search).get("next") ?? "/", location.origin);
  return next.origin === location.origin ? next.pathname + next.search : "/";
}

byId("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = event.target.querySelector("button");
  button.disabled = true;
  try {
    await api.logIn(byId("token").value.trim());
    location.assign(destination());
  } catch (error) {
    setText(byId("problem"), error.message);
    byId("problem").hidden = false;
    byId("token").setAttribute("aria-invalid", "true");
    byId("token").select();
    button.disabled = false;
  }
});
