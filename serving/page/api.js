// Requests to the endpoint that served this page, and to no other.

let key = "";

/** A request that was refused or failed: what the endpoint says of it. */
export class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

export function useKey(text) {
  key = text;
}

async function answered(path, options) {
  const headers = { ...options.headers };
  if (key) headers.authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "the endpoint does not answer; is it still running?");
  }
  const body = await response.json();
  if (!response.ok) throw new Problem(response.status, body.detail);
  return body;
}

function post(path, body, signal) {
  const headers = { "content-type": "application/json" };
  return answered(path, { method: "POST", headers, body: JSON.stringify(body), signal });
}

export const card = () => answered("v1/model", {});
export const recommend = (body, signal) => post("v1/recommend", body, signal);
export const recommendBatch = (body, signal) => post("v1/recommend/batch", body, signal);
export const similar = (body, signal) => post("v1/similar", body, signal);
export const similarPlaylists = (body, signal) => post("v1/playlists/similar", body, signal);
export const continuePlaylist = (body, signal) => post("v1/playlists/continue", body, signal);
export const playlistTracks = (playlist) => answered(`v1/playlists/tracks?${new URLSearchParams({ playlist })}`, {});
export const playlistMap = () => answered("v1/playlists/map", {});

export async function items(query, limit, signal) {
  const asked = new URLSearchParams({ query, limit });
  return (await answered(`v1/items?${asked}`, { signal })).items;
}

/** The item of an id, with its title; none where the model does not know it. */
export async function itemOf(id) {
  return (await items(String(id), 20)).find((each) => each.id === id);
}

/** One question at a time: a newer one puts an end to the older. */
export function latest(ask) {
  let running = null;
  return async (...args) => {
    running?.abort();
    running = new AbortController();
    try {
      return await ask(...args, running.signal);
    } catch (error) {
      if (error.name === "AbortError") return undefined;
      throw error;
    }
  };
}
