//! All levels of this CPU give the same bits.

use proptest::prelude::*;

use crate::dtype::{Float, ScaleDtype};
use crate::kernel::squares::PRECISION;
use crate::scheme::{
    self, Buffers, Codes, Encoded, Grouping, Next, PAIRS, Range, Sums, Tile, Values,
};
use crate::simd::{self, LINE, Level};

#[derive(Debug, PartialEq)]
struct Everything {
    finite: bool,
    values: Vec<u32>,
    ranges: Vec<Range>,
    data: Vec<u8>,
    scales: Vec<u32>,
    zero_points: Vec<u8>,
    decoded: Vec<u32>,
    sums: Vec<Sums>,
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
    simd::to_f32(level, source, bytes, &mut values);
    let raw = values.clone();
    for value in values.iter_mut().filter(|value| !value.is_finite()) {
        *value = 1.0;
    }
    let mut ranges = vec![Range::ZERO; rows * grouping.groups()];
    let finite = simd::survey(level, &values, columns, group_size, &mut ranges);
    // Without the numbers that were replaced above.
    let mut halves = vec![0; if source.width() == 2 { bytes.len() } else { 0 }];
    if !halves.is_empty() {
        simd::from_f32(level, source, &values, &mut halves);
        if columns.is_multiple_of(group_size) && group_size.is_multiple_of(PAIRS) {
            let survey = |halves: &[u8], ranges: &mut [Range]| {
                simd::survey_halves(level, source, halves, group_size, ranges)
            };
            let mut same = vec![Range::ZERO; ranges.len()];
            assert_eq!((survey(&halves, &mut same), &same), (finite, &ranges));
            let all_finite = raw.iter().all(|value| value.is_finite());
            assert_eq!(survey(&bytes[..halves.len()], &mut same), all_finite);
        }
    }
    let layout = scheme.row_layout(&grouping);
    let mut data = vec![0; rows * layout.data];
    let mut scales = vec![0.0; rows * layout.scales];
    let mut zero_points = vec![0; rows * layout.zero_points];
    // Two rows of the tensor a part, where that comes out even.
    let parts = if rows.is_multiple_of(2) { rows / 2 } else { rows };
    let part = count / parts;
    let (values, ranges) = (values.as_slice(), ranges.as_slice());
    let of_tile = Values::Float32(values);
    let tile = Tile { grouping, width: columns, values: of_tile, phase: 0, ranges, source: bytes };
    let out = Encoded { data: &mut data, scales: &mut scales, zero_points: &mut zero_points };
    let (mut buffers, mut sums) = (Buffers::default(), vec![Sums::default(); parts]);
    let (mut raw_ranges, mut on_the_way) = (ranges.to_vec(), ranges.to_vec());
    let raw_finite = simd::survey(level, &raw, columns, group_size, &mut raw_ranges);
    let mut next = Next { values: &raw, ranges: &mut on_the_way, finite: None };
    scheme.encode(level, &tile, out, &mut buffers, &mut sums, Some(&mut next));
    let found = next.finite;
    if !halves.is_empty() {
        let tile = Tile { values: Values::Halves(source, &halves), source: &halves, ..tile };
        // Past the caches go aligned vectors only.
        let past = level.for_output(usize::MAX);
        for (level, beside) in [(level, 0), (past, 0), (past, 4)] {
            let mut room = vec![1; data.len() + LINE + beside];
            let at = room.as_ptr().align_offset(LINE) + beside;
            let same = &mut room[at..][..data.len()];
            let mut same_sums = vec![Sums::default(); parts];
            let (mut s, mut z) = (vec![0.0; scales.len()], vec![0; zero_points.len()]);
            let out = Encoded { data: &mut *same, scales: &mut s, zero_points: &mut z };
            scheme.encode(level, &tile, out, &mut buffers, &mut same_sums, None);
            assert_eq!((&*same, bits(&s), z), (&*data, bits(&scales), zero_points.clone()));
            assert_eq!(same_sums, sums);
        }
    }
    if let Some(finite) = found {
        let ends = |ranges: &[Range]| -> Vec<[u32; 2]> {
            ranges.iter().map(|range| [range.lo, range.hi].map(f32::to_bits)).collect()
        };
        assert_eq!((finite, ends(&on_the_way)), (raw_finite, ends(&raw_ranges)));
    }
    let codes = Codes {
        grouping,
        width: columns,
        phase: 0,
        data: &data,
        scales: &scales,
        zero_points: &zero_points,
    };
    let mut decoded = vec![0.0; count];
    scheme.decode(level, &codes, &mut buffers.codes, &mut decoded);
    // Past the caches go whole lines only.
    let mut room = vec![0.0; count + LINE / 4];
    let at = room.as_ptr().align_offset(LINE);
    let past = &mut room[at..][..count];
    scheme.decode(level.for_output(usize::MAX), &codes, &mut buffers.codes, past);
    assert_eq!(bits(past), bits(&decoded));
    let mut narrowed = vec![0; bytes.len()];
    simd::from_f32(level, source, &decoded, &mut narrowed);
    // The sums are those of what is decoded, up to how they are rounded.
    let close = |a: f64, b: f64| (a - b).abs() <= PRECISION * a.max(b) || a.max(b) < 1e-290;
    let parts = values.chunks(part).zip(decoded.chunks(part)).zip(&sums);
    for ((values, decoded), sums) in parts {
        let wide: Vec<u8> = values.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect();
        let plain = simd::sums_f64(level, &wide, decoded);
        assert_eq!(sums.max_abs_error, plain.max_abs_error);
        assert!(close(sums.squared_error, plain.squared_error), "{sums:?} {plain:?}");
        assert!(close(sums.squared, plain.squared), "{sums:?} {plain:?}");
    }
    Everything {
        finite,
        values: bits(values),
        ranges: ranges.to_vec(),
        data,
        scales: bits(&scales),
        zero_points,
        decoded: bits(&decoded),
        sums,
        narrowed,
    }
}

proptest! {
    #[test]
    fn levels_agree(
        random in prop::collection::vec(any::<u64>(), 1..600),
        tame: bool,
        name in prop::sample::select(vec!["int8", "int4", "int2"]),
        source in prop::sample::select(Float::ALL.to_vec()),
        columns in prop_oneof![
            1usize..200,
            500usize..3000,
            (1usize..8).prop_map(|n| 128 * n),
            (1usize..4).prop_map(|n| 1040 * n),
            Just(1056usize),
        ],
        group_size in prop_oneof![1usize..150, prop::sample::select(vec![32, 64, 128, 520, 1040, 1056])],
        symmetric: bool,
        scale_dtype in prop::sample::select(ScaleDtype::ALL.to_vec()),
    ) {
        // Any bits at all, or numbers like weights, whose groups are simple.
        let mut bytes: Vec<u8> = random.iter().flat_map(|word| word.to_le_bytes()).collect();
        if tame {
            let words = bytes.as_chunks::<4>().0.iter().map(|word| i32::from_le_bytes(*word));
            let values: Vec<f32> = words.map(|word| word as f32 / 2f32.powi(34)).collect();
            bytes = vec![0; values.len() * source.width()];
            simd::from_f32(Level::BASELINE, source, &values, &mut bytes);
        }
        // Scales of any bits at all need not fit binary16.
        let fits = tame || scale_dtype != ScaleDtype::F16;
        let scale_dtype = if fits { scale_dtype } else { ScaleDtype::F32 };
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
