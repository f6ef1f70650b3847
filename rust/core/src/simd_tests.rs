//! All levels of this CPU give the same bits.

use proptest::prelude::*;

use crate::dtype::{Float, ScaleDtype};
use crate::scheme::{self, Codes, Encoded, Grouping, Range, Tile};
use crate::simd::{self, Level};

#[derive(Debug, PartialEq)]
struct Everything {
    finite: bool,
    values: Vec<u32>,
    ranges: Vec<Range>,
    data: Vec<u8>,
    scales: Vec<u32>,
    zero_points: Vec<u8>,
    decoded: Vec<u32>,
    sums: String,
    narrowed: Vec<u8>,
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Every kernel once over rows of `grouping.columns` elements.
fn everything(
    level: Level,
    name: &str,
    source: Float,
    grouping: Grouping,
    bytes: &[u8],
) -> Everything {
    let Ok(scheme::Choice::Encode(scheme)) = scheme::find(name) else { unreachable!() };
    let (columns, group_size) = (grouping.columns, grouping.group_size);
    let count = bytes.len() / source.width();
    let rows = count / columns;
    let mut values = vec![0.0; count];
    let finite = simd::to_f32(level, source, bytes, &mut values);
    for value in values.iter_mut().filter(|value| !value.is_finite()) {
        *value = 1.0;
    }
    let mut ranges = vec![Range::ZERO; rows * grouping.groups()];
    simd::ranges(level, &values, columns, group_size, &mut ranges);
    let layout = scheme.row_layout(&grouping);
    let mut data = vec![0; rows * layout.data];
    let mut scales = vec![0.0; rows * layout.scales];
    let mut zero_points = vec![0; rows * layout.zero_points];
    let mut decoded = vec![0.0; count];
    let tile = Tile { grouping, width: columns, values: &values, phase: 0, ranges: &ranges };
    let out = Encoded { data: &mut data, scales: &mut scales, zero_points: &mut zero_points };
    scheme.encode(level, &tile, out, &mut decoded);
    let codes = Codes {
        grouping,
        width: columns,
        phase: 0,
        data: &data,
        scales: &scales,
        zero_points: &zero_points,
    };
    let mut back = vec![0.0; count];
    scheme.decode(level, &codes, &mut back);
    assert_eq!(bits(&back), bits(&decoded), "decode gives what encode said");
    let mut narrowed = vec![0; bytes.len()];
    simd::from_f32(level, source, &decoded, &mut narrowed);
    let wide: Vec<u8> = values.iter().flat_map(|value| f64::from(*value).to_le_bytes()).collect();
    let sums = simd::sums(level, &values, &decoded);
    assert_eq!(sums, simd::sums_f64(level, &wide, &decoded));
    Everything {
        finite,
        values: bits(&values),
        ranges,
        data,
        scales: bits(&scales),
        zero_points,
        decoded: bits(&decoded),
        sums: format!("{sums:?}"),
        narrowed,
    }
}

proptest! {
    #[test]
    fn levels_agree(
        random in prop::collection::vec(any::<u64>(), 1..400),
        name in prop::sample::select(vec!["int8", "int4", "int2"]),
        source in prop::sample::select(Float::ALL.to_vec()),
        columns in 1usize..200,
        group_size in 1usize..150,
        symmetric: bool,
        scale_dtype in prop::sample::select(vec![ScaleDtype::F32, ScaleDtype::BF16]),
    ) {
        let bytes: Vec<u8> = random.iter().flat_map(|word| word.to_le_bytes()).collect();
        let columns = columns.min(bytes.len() / source.width());
        let group_size = group_size.min(columns);
        let whole_rows = bytes.len() / source.width() / columns * columns * source.width();
        let grouping = Grouping { columns, group_size, symmetric, scale_dtype };
        let run = |level| everything(level, name, source, grouping, &bytes[..whole_rows]);
        let expected = run(Level::BASELINE);
        for level in Level::available() {
            prop_assert_eq!(&run(level), &expected, "{:?}", level);
        }
    }
}
