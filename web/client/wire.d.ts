/**
 * Frames and events of the room socket, made from `live/wire.py` by `nearcast protocol --typescript`.
 * Times are milliseconds since 1970, money is integer fen, identifiers are UUIDs.
 */

/** A place in a room's log: the log's `epoch` (new when the log was lost) and the number of its last event. */
export interface Position {
  epoch: string;
  seq: number;
}

/** First frame, within 10 s. `resume` is the position after the last batch that the client has seen; `v` is the version of the protocol that the client speaks. */
export interface Hello {
  t: 'hello';
  token: string;
  resume?: Position;
  v?: number;
}

/** Say something to the room. */
export interface Comment {
  t: 'comment';
  id: string;
  text: string;
}

/** `n` taps on the heart since the last such frame. Not answered. */
export interface Like {
  t: 'like';
  n?: number;
}

/** The viewer opened a product's card. Not answered. */
export interface Tap {
  t: 'tap';
  product: string;
}

/** A coupon was shown to the viewer. Not answered. */
export interface Seen {
  t: 'seen';
  coupon: string;
}

/** A fix. `accuracy` in metres, null where the source gives none (then it decides nothing). */
export interface Locate {
  t: 'locate';
  lng: number;
  lat: number;
  datum: 'bd09' | 'gcj02' | 'wgs84';
  accuracy?: number;
  id?: string;
}

/** Try for a coupon of an open claim drop. */
export interface Claim {
  t: 'claim';
  id: string;
  drop: string;
}

/** Viewer: this comment is wrong; ops will look at it. Counts once per viewer and comment. */
export interface Report {
  t: 'report';
  id: string;
  comment: string;
  reason: 'abuse' | 'fraud' | 'illegal' | 'other' | 'sexual' | 'spam';
}

/** A fresh token of the same person in the same brand and role: the socket lives as long as this one. Refused with `token_invalid` if it is somebody else's or ends before the one in use. */
export interface Renew {
  t: 'renew';
  id: string;
  token: string;
}

/** Answered by `pong`; for clients that cannot see WebSocket pings and want to know the server's clock. */
export interface Ping {
  t: 'ping';
}

/** Guide: the room goes live, or on after a pause. */
export interface Start {
  t: 'start';
  id: string;
}

/** Guide: back soon; the room stays live and goes on with `start`. */
export interface Pause {
  t: 'pause';
  id: string;
}

/** Guide: this product is being explained now; unpins by itself after `ttl` seconds, if given. */
export interface Pin {
  t: 'pin';
  id: string;
  product: string;
  ttl?: number;
}

/** Guide: nothing is being explained now. */
export interface Unpin {
  t: 'unpin';
  id: string;
}

/** Guide: show this to everybody; empty takes the announcement down. */
export interface Announce {
  t: 'announce';
  id: string;
  text: string;
}

/** Guide: release coupons of a campaign into the room, open for `seconds` after `delay` seconds. */
export interface Drop {
  t: 'drop';
  id: string;
  campaign: string;
  mode: 'claim' | 'push';
  stock?: number;
  seconds?: number;
  delay?: number;
}

/** Guide: this viewer's comments are refused for `seconds`; 0 lifts the mute. `scope` `brand`: in all rooms of the brand. */
export interface Mute {
  t: 'mute';
  id: string;
  viewer: string;
  seconds: number;
  scope?: 'brand' | 'room';
}

/** Guide: close this viewer's sockets to the room, on all gateways. They may join anew; staff cannot be kicked. */
export interface Kick {
  t: 'kick';
  id: string;
  viewer: string;
}

/** Guide: this viewer's sockets close and they may not come in for `seconds`; 0 lifts the ban. `scope` `brand`: in all rooms of the brand. Staff cannot be banned. */
export interface Ban {
  t: 'ban';
  id: string;
  viewer: string;
  seconds: number;
  scope?: 'brand' | 'room';
}

/** Guide: take a comment down everywhere. */
export interface Delete {
  t: 'delete';
  id: string;
  comment: string;
}

/** Guide: each viewer may comment once in `seconds`; 0 ends slow mode. */
export interface Slow {
  t: 'slow';
  id: string;
  seconds: number;
}

/** Guide: from now on only staff and the viewers in `allow` may comment; with `on` false everybody may again. */
export interface Hush {
  t: 'hush';
  id: string;
  on: boolean;
  allow?: string[];
}

/** Guide: the room is over. */
export interface End {
  t: 'end';
  id: string;
}

/** Somebody as others see them. */
export interface Person {
  id: string;
  name: string;
  role?: 'clerk' | 'guide' | 'ops' | 'viewer';
  tier?: number;
}

/** A room as its viewers see it. `hushed`: only staff and the viewers in `allow` may comment. `paused_at`: the guide is away since then, and will be back; `state` stays `live`. `scheduled_at`: clients count down to it. */
export interface RoomCard {
  id: string;
  title: string;
  state: 'ended' | 'live' | 'scheduled';
  guide: Person;
  store?: string;
  live_at?: number;
  slow_seconds?: number;
  hushed?: boolean;
  allow?: string[];
  scheduled_at?: number;
  paused_at?: number;
  ended_at?: number;
}

/** A product as shown while it is explained. */
export interface ProductCard {
  id: string;
  title: string;
  image: string;
  price_fen: number;
  list_price_fen?: number;
  sold_out?: boolean;
}

/** What is pinned, in the snapshot. */
export interface PinState {
  product: ProductCard;
  at: number;
  until?: number;
}

/** Live figures of a room. */
export interface Counts {
  viewers?: number;
  likes?: number;
  uniques?: number;
}

/** A drop as announced to the room. `opens_at` may lie ahead: clients count down to it. Where there is a `spread` (ms), each viewer's turn to claim comes within it; `signature` shows that the server said so. A push drop that opened in quiet hours has `held_until`: whoever gets a coupon is told then. */
export interface DropCard {
  id: string;
  mode: 'claim' | 'push';
  title: string;
  terms: string;
  stock: number;
  left: number;
  opens_at: number;
  ends_at: number;
  radius_m: number;
  spread?: number;
  signature?: string;
  held_until?: number;
}

/** Somebody said something. `id` is the server's; the sender learns it from its `ack`. */
export interface Commented {
  t: 'comment';
  id: string;
  by: Person;
  text: string;
  at: number;
}

/** A coupon as its owner sees it. `store` is where it is redeemed; `distance_m` is a band's upper edge. */
export interface CouponCard {
  id: string;
  title: string;
  terms: string;
  code: string;
  store: string;
  store_name: string;
  valid_until: number;
  state?: 'expired' | 'issued' | 'redeemed' | 'voided';
  valid_from?: number;
  store_address?: string;
  distance_m?: number;
  drop?: string;
}

/** The snapshot, true at `log`. `recovered`: every certain event since the client's position follows at once (`missed` of them, in `batch` frames); otherwise the snapshot replaces what the client knew. */
export interface Welcome {
  t: 'welcome';
  you: Person;
  room: RoomCard;
  log: Position;
  now: number;
  pin?: PinState;
  announcement?: string;
  counts?: Counts;
  drops?: DropCard[];
  recent?: Commented[];
  coupons?: CouponCard[];
  muted_until?: number;
  recovered?: boolean;
  missed?: number;
}

/** Events of one tick, oldest first. `seq` is the log's position after them, given when it moved. */
export interface Batch {
  t: 'batch';
  e: RoomEvent[];
  seq?: number;
}

/** A refusal: `code` is one of `kernel.errors.CATALOGUE`; `retry_after` is in seconds; `field` is the one of the command that is wrong, where one is. */
export interface Error {
  code: string;
  message: string;
  retry_after?: number;
  field?: string;
}

/** Answer to the command `id`: done (`ok`) or refused (`error`). What it made, where it made something. */
export interface Ack {
  t: 'ack';
  id: string;
  ok?: boolean;
  error?: Error;
  comment?: string;
  coupon?: CouponCard;
  drop?: string;
  stores?: number;
}

/** A coupon for this viewer. Certain: `seq` is its place in the room's log. */
export interface CouponGranted {
  t: 'coupon';
  coupon: CouponCard;
  seq?: number;
}

/** To this viewer: their coupon of `drop` is under review (`open`, at the latest until `until`), or what came of it. `granted`: the coupon itself is sent too. Certain, as `coupon`. */
export interface Review {
  t: 'review';
  drop: string;
  title: string;
  state: 'declined' | 'expired' | 'granted' | 'open';
  until?: number;
  coupon?: string;
  seq?: number;
}

/** To guides: of `total` comments in the last second, viewers were shown `shown`. */
export interface Shed {
  t: 'shed';
  shown: number;
  total: number;
}

/** The token ends at `expires_at`, and with it this socket, unless a `renew` comes first. Sent once in a token's life: two minutes before its end, or when a tenth of its life is left, if that is later. */
export interface Expiring {
  t: 'expiring';
  expires_at: number;
}

/** The server's clock. */
export interface Pong {
  t: 'pong';
  now: number;
}

/** Sent before a close: `code` as in the close frame, `retry_after` in seconds. */
export interface Bye {
  t: 'bye';
  code: number;
  reason: string;
  retry_after?: number;
}

/** This product is being explained now, until `until` if that is given. */
export interface Pinned {
  t: 'pin';
  product: ProductCard;
  at: number;
  until?: number;
}

/** Nothing is being explained now. */
export interface Unpinned {
  t: 'unpin';
  at: number;
}

/** The room's announcement; empty text takes it down. */
export interface Announced {
  t: 'announce';
  text: string;
  at: number;
}

/** The room as it is from now on: another time or title, gone live, paused, ended, slow mode, muted. */
export interface RoomChanged {
  t: 'room';
  room: RoomCard;
}

/** Comments of `viewer` are refused in this room until `until`, whether the room or the brand muted them; null: they may speak. */
export interface Muted {
  t: 'mute';
  viewer: string;
  until: number | null;
}

/** The sockets that `viewer` had in this room were closed. They may be back. */
export interface Kicked {
  t: 'kick';
  viewer: string;
}

/** `viewer` may not be in this room until `until`, whether the room or the brand banned them; null: they may. */
export interface Banned {
  t: 'ban';
  viewer: string;
  until: number | null;
}

/** Take this comment off the screen. */
export interface Deleted {
  t: 'delete';
  comment: string;
}

/** A drop was announced or opened. */
export interface DropOpened {
  t: 'drop';
  drop: DropCard;
}

/** A drop is over: `sold_out`, `time` or `stopped`. */
export interface DropEnded {
  t: 'drop_end';
  drop: string;
  reason: 'sold_out' | 'stopped' | 'time';
}

/** How many watch, how many liked. */
export interface CountsChanged {
  t: 'counts';
  counts: Counts;
}

/** What is left of a drop. */
export interface DropStock {
  t: 'drop_stock';
  drop: string;
  left: number;
}

/** Somebody came in. */
export interface Joined {
  t: 'join';
  by: Person;
}

export type ClientFrame =
  | Hello
  | Comment
  | Like
  | Tap
  | Seen
  | Locate
  | Claim
  | Report
  | Renew
  | Ping
  | Start
  | Pause
  | Pin
  | Unpin
  | Announce
  | Drop
  | Mute
  | Kick
  | Ban
  | Delete
  | Slow
  | Hush
  | End;

export type ServerFrame =
  | Welcome
  | Batch
  | Ack
  | CouponGranted
  | Review
  | Shed
  | Expiring
  | Pong
  | Bye;

export type RoomEvent =
  | Pinned
  | Unpinned
  | Announced
  | RoomChanged
  | Muted
  | Kicked
  | Banned
  | Deleted
  | DropOpened
  | DropEnded
  | CountsChanged
  | DropStock
  | Commented
  | Joined;

/** What a listener hears, by the event's `t`. */
export interface RoomEvents {
  pin: Pinned;
  unpin: Unpinned;
  announce: Announced;
  room: RoomChanged;
  mute: Muted;
  kick: Kicked;
  ban: Banned;
  delete: Deleted;
  drop: DropOpened;
  drop_end: DropEnded;
  counts: CountsChanged;
  drop_stock: DropStock;
  comment: Commented;
  join: Joined;
}
