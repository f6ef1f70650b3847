//! Double quantization: scales that are codes of eight bits themselves.
//!
//! Source: `create_dynamic_map` in
//! <https://github.com/bitsandbytes-foundation/bitsandbytes/blob/main/bitsandbytes/functional.py>.

/// Scales that share one.
pub const NESTED_RUN: usize = 256;

/// The numbers that the codes of scales stand for: signed decimal orders of magnitude, each with twice as
/// many steps as the one below. bitsandbytes' map is rounded to float32 on the way, too.
pub const NESTED_MAP: [f32; 256] = {
    let (mut map, mut order, mut at) = ([0.0; 256], 0, 1);
    while order < 7 {
        let (steps, mut step, mut power) = (1 << order, 0, 6 - order);
        let mut unit = 1.0;
        while power > 0 {
            unit /= 10.0;
            power -= 1;
        }
        while step < steps {
            let number = (0.1 + 0.9 * (2 * step + 1) as f64 / (2 * steps) as f64) * unit;
            (map[127 + at], map[127 - at]) = (number as f32, -number as f32);
            (step, at) = (step + 1, at + 1);
        }
        order += 1;
    }
    map[255] = 1.0;
    map
};

/// The code of a scale, where the largest of its run is `most`: that of the nearest number, the lower
/// of two.
pub(crate) fn nested_code(scale: f32, most: f32) -> usize {
    let wanted = if most > 0.0 { f64::from(scale) / f64::from(most) } else { 0.0 };
    let above = NESTED_MAP.partition_point(|number| f64::from(*number) < wanted).clamp(1, 255);
    let (low, high) = (f64::from(NESTED_MAP[above - 1]), f64::from(NESTED_MAP[above]));
    if wanted - low <= high - wanted { above - 1 } else { above }
}
