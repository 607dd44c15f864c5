import type { VNode } from "preact";
import type { Link } from "../api/contract";
import { count, figure, machine, short } from "../format";
import { Scrolled } from "../parts/Scrolled";
import { text } from "../preferences";
import { waiterOf } from "./link_layout";

/** Every link in figures, the longest wait first. */
export function LinkTable({ links }: { readonly links: readonly Link[] }): VNode {
  const t = text.value.cluster;
  const ordered = [...links].sort((a, b) => (b.wait_s_per_token ?? 0) - (a.wait_s_per_token ?? 0));
  return (
    <section class="card" aria-labelledby="links-title">
      <h2 id="links-title">{t.links}</h2>
      <Scrolled label={t.links}>
        <table>
          <thead>
            <tr>
              <th scope="col">{t.link}</th>
              <th scope="col">{t.whoWaits}</th>
              <th scope="col" class="number">
                {t.wait}
              </th>
              <th scope="col" class="number">
                {t.wire}
              </th>
              <th scope="col" class="number">
                {t.bandwidth}
              </th>
              <th scope="col" class="number">
                {t.roundTrip}
              </th>
              <th scope="col" class="number">
                {t.errors}
              </th>
            </tr>
          </thead>
          <tbody>
            {ordered.map((link) => (
              <tr key={link.between.join(" ")}>
                <th scope="row">{link.between.map(machine).join(" – ")}</th>
                <td>{machine(waiterOf(link) ?? "–")}</td>
                <td class="number">{short(link.wait_s_per_token)}</td>
                <td class="number">{short(link.wire_s_per_token)}</td>
                <td class="number">
                  {figure(link.mbit_per_s)}{" "}
                  {link.mbit_per_s !== null && <span class="quiet">Mbit/s</span>}
                </td>
                <td class="number">
                  {short(link.round_trip_us === null ? null : link.round_trip_us / 1e6)}
                </td>
                <td class={`number ${link.errors ? "bad" : ""}`}>{count(link.errors)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </Scrolled>
    </section>
  );
}
