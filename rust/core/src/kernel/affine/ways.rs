//! What loops over groups are compiled for, each a choice between two types.

/// How long the groups of a tile are.
pub(super) trait Lengths {
    const EVEN: bool;
}
/// Equally many whole lines: others can be surveyed along with them.
pub(super) struct Even;
/// Any.
pub(super) struct Ragged;
impl Lengths for Even {
    const EVEN: bool = true;
}
impl Lengths for Ragged {
    const EVEN: bool = false;
}

/// Where codes go.
pub(super) trait Room {
    const PACK: bool;
}
/// Into the output at once: four bits each, of scales with 16 bits.
pub(super) struct Packed;
/// A byte each, to be packed later if they are shorter.
pub(super) struct Loose;
impl Room for Packed {
    const PACK: bool = true;
}
impl Room for Loose {
    const PACK: bool = false;
}

/// Whether values may lie beyond the largest code.
pub(super) trait Ends {
    const CLAMP: bool;
}
/// They may, and are clamped.
pub(super) struct Clamped;
/// None does.
pub(super) struct Within;
impl Ends for Clamped {
    const CLAMP: bool = true;
}
impl Ends for Within {
    const CLAMP: bool = false;
}

/// Whether the largest error is looked for.
pub(super) trait Largest {
    const TRACK: bool;
}
/// It is.
pub(super) struct Tracked;
/// No error can be larger than the largest that is known.
pub(super) struct Known;
impl Largest for Tracked {
    const TRACK: bool = true;
}
impl Largest for Known {
    const TRACK: bool = false;
}
