//! `int8`, `int4`, `int2`: affine integers, with scales and zero points beside the codes.

use super::{RowLayout, Scheme, Sums};
use crate::kernel::dispatch;
use crate::kernel::tile::{Bounds, Buffers, Codes, Encoded, Grouping, Next, Tile};
use crate::kernel::{affine, pack};
use crate::lanes::Level;

/// Affine integers of some width.
#[derive(Debug)]
pub(super) struct Affine {
    name: &'static str,
    bits: u32,
    symmetric: bool,
}

pub(super) static INT8: Affine = Affine { name: "int8", bits: 8, symmetric: true };
pub(super) static INT4: Affine = Affine { name: "int4", bits: 4, symmetric: false };
pub(super) static INT2: Affine = Affine { name: "int2", bits: 2, symmetric: false };

impl Scheme for Affine {
    fn name(&self) -> &'static str {
        self.name
    }

    fn code_bits(&self) -> u64 {
        u64::from(self.bits)
    }

    fn default_group_size(&self) -> i64 {
        128
    }

    fn default_symmetric(&self) -> bool {
        self.symmetric
    }

    fn row_layout(&self, grouping: &Grouping) -> RowLayout {
        RowLayout {
            data: pack::row_bytes(grouping.columns, self.bits),
            scales: grouping.groups(),
            zero_points: if grouping.symmetric { 0 } else { grouping.groups() },
        }
    }

    fn stretch_bytes(&self, elements: usize) -> usize {
        pack::row_bytes(elements, self.bits)
    }

    fn exact_scale(&self, range: Bounds, symmetric: bool) -> f64 {
        affine::exact_scale(self.bits, range, symmetric)
    }

    fn encode(
        &self,
        level: Level,
        tile: &Tile<'_>,
        out: Encoded<'_>,
        buffers: &mut Buffers,
        sums: &mut [Sums],
        next: Option<&mut Next<'_>>,
    ) {
        dispatch::encode_affine(level, self.bits, tile, out, buffers, sums, next);
    }

    fn decode(&self, level: Level, codes: &Codes<'_>, buffer: &mut Vec<u8>, values: &mut [f32]) {
        dispatch::decode_affine(level, self.bits, codes, buffer, values);
    }

    fn check_zero_points(&self, zero_points: &[u8]) -> Option<String> {
        let top = (1u32 << self.bits) - 1;
        let at = zero_points.iter().position(|&zero_point| u32::from(zero_point) > top)?;
        Some(format!("zero point {} of group {at} is beyond {top}", zero_points[at]))
    }
}
