//! SYNs that nobody has answered yet, and how they are sent again.

/// Bytes of a frame that can be remembered: any SYN without data, tagged, with all the options there
/// can be, in IPv6.
pub const MAX_SYN: usize = 128;

/// Entries in [`super::REPLAY`]: frames injected by one system call.
pub const REPLAY_FRAMES: u32 = 4096;
/// Where in [`super::REPLAY_AT`] the position of the next frame is; the program counts it up.
pub const REPLAY_NEXT: u32 = 0;
/// Where in [`super::REPLAY_AT`] the position after the last frame is.
pub const REPLAY_END: u32 = 1;

/// Value of [`super::PENDING`]: a client's attempt to connect.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pending {
    /// CLOCK_MONOTONIC ns (coarse) of the attempt's first SYN.
    pub at: u64,
    /// Service index; of a group, the member's that was chosen, as in a flow.
    pub service: u32,
    /// The service's generation when the SYN was seen last.
    pub generation: u32,
    /// Interface it came in by.
    pub ifindex: u32,
    /// Sequence number of the SYN. Another one is another attempt.
    pub seq: u32,
    /// Bytes of `frame` that count.
    pub len: u16,
    /// Or of the bits below.
    pub state: u16,
    /// Always zero.
    pub zero: [u8; 4],
    /// The frame as it came in, from its Ethernet header on, less padding.
    pub frame: [u8; MAX_SYN],
}

impl Pending {
    /// In `state`: it went to the backend of another generation than the attempt's first SYN did,
    /// or to the first one after it was held: it was sent again, by the daemon or by its client.
    pub const REPLAYED: u16 = 1;
    /// In `state`: the service was parked, and so it went to nobody yet.
    pub const HELD: u16 = 1 << 1;

    /// Whether it is to be sent again now that its service has this generation.
    #[inline(always)]
    pub const fn is_waiting(&self, generation: u32) -> bool {
        self.state & Self::REPLAYED == 0
            && (self.state & Self::HELD != 0 || self.generation != generation)
    }

    /// Nothing.
    pub const EMPTY: Self = Self {
        at: 0,
        service: 0,
        generation: 0,
        ifindex: 0,
        seq: 0,
        len: 0,
        state: 0,
        zero: [0; 4],
        frame: [0; MAX_SYN],
    };
}

/// Value of [`super::REPLAY`]: a frame to inject.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplayFrame {
    /// Bytes of `frame` that count.
    pub len: u32,
    /// Always zero.
    pub zero: u32,
    /// From its Ethernet header on.
    pub frame: [u8; MAX_SYN],
}

impl ReplayFrame {
    /// An array's initial value.
    pub const EMPTY: Self = Self { len: 0, zero: 0, frame: [0; MAX_SYN] };
}
