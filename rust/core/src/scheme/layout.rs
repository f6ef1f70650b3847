//! What a layer's codes and parameters take, and where they lie.

use super::nested::NESTED_RUN;
use crate::dtype::ScaleDtype;
use crate::kernel::tile::Grouping;

/// How a matrix lies in its row of the quantized relation: what the planner counts, the driver
/// allocates, the reader checks and an exporter cuts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Layout {
    /// Rows of the matrix.
    pub rows: usize,
    /// How each of them is cut into groups; of a format of blocks, its blocks.
    pub grouping: Grouping,
    /// Rows that share a scale.
    pub group_rows: usize,
    /// Elements of a block, and its bytes in `data`: a row is a whole number of blocks.
    pub block: (usize, usize),
    /// Bytes of `data` that a row takes, padding included.
    pub row_bytes: usize,
    /// Whether scales are a column of their own, beside `data`.
    pub has_scales: bool,
    /// Bits of a zero point, where there are some.
    pub zero_point_bits: Option<u64>,
    /// Whether each group has a bias, beside its scale.
    pub has_biases: bool,
    /// Whether all of the matrix has a scale, beside those of its groups.
    pub has_tensor_scale: bool,
    /// Whether scales are codes of eight bits themselves, in runs of [`NESTED_RUN`] that have a scale of
    /// their own: double quantization. The relation has what they decode to.
    pub is_nested: bool,
    /// What the relation's columns say of it.
    pub said: Said,
}

/// What columns say; nothing where the scheme has no such choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// `group_size`
    pub group_size: Option<i64>,
    /// `group_rows`
    pub group_rows: Option<i64>,
    /// `is_symmetric`
    pub is_symmetric: Option<bool>,
    /// `scale_dtype`
    pub scale_dtype: Option<ScaleDtype>,
    /// `signed_scales`; nothing, too, where nobody says it: of codes that others made.
    pub signed_scales: Option<bool>,
}

impl Layout {
    /// Elements of the matrix.
    pub fn elements(&self) -> usize {
        self.rows * self.grouping.columns
    }

    /// Bytes of `data`; nothing where that overflows.
    pub fn data_bytes(&self) -> Option<usize> {
        self.row_bytes.checked_mul(self.rows)
    }

    /// Bytes of `data` that `elements` from the start of a row take, for whole blocks.
    pub fn stretch_bytes(&self, elements: usize) -> usize {
        elements / self.block.0 * self.block.1
    }

    /// Stretches of a row begin at multiples of so many elements.
    pub fn unit(&self) -> usize {
        self.block.0
    }

    /// Whether all of a matrix has one scale for its groups.
    pub fn has_one_scale(&self) -> bool {
        self.said.group_rows == Some(-1) && self.said.group_size == Some(-1)
    }

    /// Whether scales may be negative, as far as anyone says.
    pub fn has_signed_scales(&self) -> bool {
        self.said.signed_scales == Some(true)
    }

    /// Whether something of all of the matrix, or of several rows, must be known before a tile is encoded.
    pub fn needs_whole(&self) -> bool {
        self.shares_scales() || self.has_tensor_scale
    }

    /// Whether scales are chosen for several rows at once, before any tile is encoded.
    pub fn shares_scales(&self) -> bool {
        self.group_rows != 1 || self.is_nested
    }

    /// Rows of scales: several rows of the matrix may share one.
    pub fn scale_rows(&self) -> usize {
        if self.group_rows == 1 { self.rows } else { self.rows.div_ceil(self.group_rows) }
    }

    /// Scales; 0 where they lie in `data`. Nothing where that overflows.
    pub fn scale_count(&self) -> Option<usize> {
        let count = self.scale_rows().checked_mul(self.grouping.groups());
        if self.has_scales { count } else { Some(0) }
    }

    /// Zero points, likewise.
    pub fn zero_point_count(&self) -> Option<usize> {
        if self.zero_point_bits.is_some() { self.scale_count() } else { Some(0) }
    }

    /// Biases, likewise.
    pub fn bias_count(&self) -> Option<usize> {
        if self.has_biases { self.scale_count() } else { Some(0) }
    }

    /// Bits of codes, scales and biases at their dtype's width, zero points at theirs and the tensor's scale; nothing where a shape,
    /// which may come from outside, makes that overflow.
    pub fn bits(&self) -> Option<u64> {
        let scale_bits = if self.is_nested { 8 } else { self.grouping.scale_dtype.bits() };
        // The scales of runs, and what is added to all.
        let nested = if self.is_nested { self.scale_count()?.div_ceil(NESTED_RUN) + 1 } else { 0 };
        let parts = [
            (self.data_bytes()?, 8),
            (nested, 32),
            (self.scale_count()?, scale_bits),
            (self.bias_count()?, self.grouping.scale_dtype.bits()),
            (usize::from(self.has_tensor_scale), 32),
            (self.zero_point_count()?, self.zero_point_bits.unwrap_or(0)),
        ];
        parts.into_iter().try_fold(0u64, |sum, (count, bits)| {
            sum.checked_add(u64::try_from(count).ok()?.checked_mul(bits)?)
        })
    }

    /// The same with float32 scales, where these are beside the codes: for a layer whose scales
    /// overflow the dtype asked for.
    #[must_use]
    pub fn with_wide_scales(mut self) -> Self {
        self.grouping.scale_dtype = ScaleDtype::F32;
        self.said.scale_dtype = self.said.scale_dtype.map(|_| ScaleDtype::F32);
        self
    }
}
