//! The ends of a few values, in plain loops that the compiler makes vectors of.

use crate::lanes::LANES;

/// The smallest and the largest of values that are whole vectors.
#[inline(always)]
pub(crate) fn extremes(values: &[f32]) -> (f32, f32) {
    let (vectors, _) = values.as_chunks::<LANES>();
    let (mut low, mut high) = ([f32::MAX; LANES], [f32::MIN; LANES]);
    for vector in vectors {
        for ((low, high), value) in low.iter_mut().zip(&mut high).zip(vector) {
            *low = if value < low { *value } else { *low };
            *high = if value > high { *value } else { *high };
        }
    }
    let least = low.iter().fold(f32::MAX, |least, low| if low < &least { *low } else { least });
    let most = high.iter().fold(f32::MIN, |most, high| if high > &most { *high } else { most });
    // Of two zeros it makes no difference which; without a sign it is the same for all CPUs.
    (least + 0.0, most + 0.0)
}
