//! The ends of a few values.

use crate::kernel::tile::Bounds;
use crate::lanes::{LANES, Lanes};

/// The smallest and the largest of values that are whole vectors.
#[inline(always)]
fn extremes<L: Lanes>(lanes: L, values: &[f32]) -> (f32, f32) {
    let (mut low, mut high) = (lanes.splat(f32::MAX), lanes.splat(f32::MIN));
    for vector in values.as_chunks::<LANES>().0 {
        let vector = lanes.load(vector);
        (low, high) = (lanes.min(vector, low), lanes.larger(vector, high));
    }
    let (mut least, mut most) = ([0.0; LANES], [0.0; LANES]);
    lanes.store(low, &mut least);
    lanes.store(high, &mut most);
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            let (low, high) = (least[lane + half], most[lane + half]);
            least[lane] = if low < least[lane] { low } else { least[lane] };
            most[lane] = if high > most[lane] { high } else { most[lane] };
        }
    }
    // Of two zeros it makes no difference which; without a sign it is the same for all CPUs.
    (least[0] + 0.0, most[0] + 0.0)
}

/// The same of values whose bounds are known, which are also the ends where zero is between them.
#[inline(always)]
pub(crate) fn ends<L: Lanes>(lanes: L, values: &[f32], bounds: Bounds) -> (f32, f32) {
    if bounds.lo < 0.0 && bounds.hi > 0.0 {
        return (bounds.lo, bounds.hi);
    }
    extremes(lanes, values)
}
