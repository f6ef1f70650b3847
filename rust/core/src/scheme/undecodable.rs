//! For tests: int8, whose decoder panics.

use super::affine::INT8;
use super::{RowLayout, Scheme, Sums};
use crate::kernel::tile::{Bounds, Buffers, Codes, Encoded, Grouping, Next, Tile};
use crate::lanes::Level;

#[derive(Debug)]
pub(super) struct Undecodable;

impl Scheme for Undecodable {
    fn name(&self) -> &'static str {
        "undecodable"
    }
    fn code_bits(&self) -> u64 {
        INT8.code_bits()
    }
    fn default_group_size(&self) -> i64 {
        INT8.default_group_size()
    }
    fn default_symmetric(&self) -> bool {
        INT8.default_symmetric()
    }
    fn row_layout(&self, grouping: &Grouping) -> RowLayout {
        INT8.row_layout(grouping)
    }
    fn stretch_bytes(&self, elements: usize) -> usize {
        INT8.stretch_bytes(elements)
    }
    fn exact_scale(&self, range: Bounds, symmetric: bool) -> f64 {
        INT8.exact_scale(range, symmetric)
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
        INT8.encode(level, tile, out, buffers, sums, next);
    }
    fn decode(&self, _: Level, _: &Codes<'_>, _: &mut Vec<u8>, _: &mut [f32]) {
        panic!("undecodable");
    }
    fn check_zero_points(&self, zero_points: &[u8]) -> Option<String> {
        INT8.check_zero_points(zero_points)
    }
}
