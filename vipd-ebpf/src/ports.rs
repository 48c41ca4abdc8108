//! Source ports towards a backend: who has which, and who may have it.

use vipd_common::maps::{Backend, ServiceKey};
use vipd_common::wire::ip::Ip;

use crate::nat::forget;
use crate::tables::{Draft, FlowTable, TablesOf};

/// Source ports tried for a new connection before giving up.
const PORT_TRIES: u32 = 12;

/// Takes a source port towards `backend` by adding the backend's half of the connection to the
/// half-open table; false if none was found. The key in `draft` gets the port.
///
/// The client's own port is kept if it is in the range and free; else ports are tried from a
/// random one on. If none of the tries is free, the last that only a half-open connection holds
/// is taken from it: a flood may not lock clients out.
#[inline(always)]
pub fn claim_port<A: Ip, T: TablesOf<A>>(
    tables: &T,
    backend: &Backend,
    draft: &mut Draft<A>,
    now: u64,
) -> bool {
    let (first, last) = (u32::from(backend.first_port), u32::from(backend.last_port));
    let span = last.wrapping_sub(first).wrapping_add(1);
    if span == 0 || last < first {
        return false;
    }
    let client_port = u32::from(u16::from_be_bytes(draft.flow.leaves.dst_port));
    let client_port_fits = client_port >= first && client_port <= last;
    let start = tables.random();
    let mut stealable = None;
    let mut tries = 0;
    while tries < PORT_TRIES {
        let port = if tries == 0 && client_port_fits {
            client_port
        } else {
            first + start.wrapping_add(tries.wrapping_mul(7919)) % span
        };
        tries += 1;
        draft.reply.dst_port = (port as u16).to_be_bytes();
        match taken(tables, draft, now) {
            Taken::Established => continue,
            Taken::HalfOpen => stealable = Some(draft.reply.dst_port),
            Taken::No => {
                if tables.add_flow(FlowTable::HalfOpen, &draft.reply, &draft.flow) {
                    return true;
                }
            }
        }
    }
    let Some(port) = stealable else { return false };
    draft.reply.dst_port = port;
    // With its client's half, or that client would go on sending into this connection.
    forget_holder(tables, FlowTable::HalfOpen, draft);
    tables.add_flow(FlowTable::HalfOpen, &draft.reply, &draft.flow)
}

/// Who holds a tuple towards a backend.
enum Taken {
    No,
    HalfOpen,
    Established,
}

#[inline(always)]
fn taken<A: Ip, T: TablesOf<A>>(tables: &T, draft: &mut Draft<A>, now: u64) -> Taken {
    let reply = &draft.reply;
    // A port of the VIP that is itself a service is not a source port.
    if tables.service(&ServiceKey::new(reply.dst, reply.dst_port)).is_some() {
        return Taken::Established;
    }
    if let Some(flow) = tables.flow(FlowTable::Established, reply) {
        if !flow.is_expired(true, now) {
            return Taken::Established;
        }
        forget_holder(tables, FlowTable::Established, draft);
    }
    match tables.flow(FlowTable::HalfOpen, &draft.reply) {
        Some(flow) if !flow.is_expired(false, now) => Taken::HalfOpen,
        Some(_) => {
            forget_holder(tables, FlowTable::HalfOpen, draft);
            Taken::No
        }
        None => Taken::No,
    }
}

/// Removes both halves of the connection that has a draft's key.
#[inline(always)]
fn forget_holder<A: Ip, T: TablesOf<A>>(tables: &T, table: FlowTable, draft: &mut Draft<A>) {
    let Some(flow) = tables.flow(table, &draft.reply) else { return };
    draft.other = flow.leaves.reversed();
    drop(flow);
    forget(tables, table, &draft.reply, &draft.other);
}
