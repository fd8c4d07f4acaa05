"""Fields of Parquet's footers and page headers, as tables for `thrift_compact`.

The tables have the fields that our writer (Arrow C++) writes without encryption, Bloom filters and page indexes. Others
are refused.

Source: src/main/thrift/parquet.thrift of apache/parquet-format.
"""

from pipeline.audit.parquet.thrift_compact import Field, Kind, Struct

_EMPTY: Struct = {}

_LOGICAL_TYPE: Struct = {
    1: Field("string", Kind.STRUCT, _EMPTY),
    2: Field("map", Kind.STRUCT, _EMPTY),
    3: Field("list", Kind.STRUCT, _EMPTY),
    4: Field("enum", Kind.STRUCT, _EMPTY),
    10: Field(
        "integer",
        Kind.STRUCT,
        {1: Field("bit_width", Kind.BYTE, is_required=True), 2: Field("is_signed", Kind.TRUE, is_required=True)},
    ),
    11: Field("unknown", Kind.STRUCT, _EMPTY),
}

_SCHEMA_ELEMENT: Struct = {
    1: Field("type", Kind.I32),
    2: Field("type_length", Kind.I32),
    3: Field("repetition_type", Kind.I32),
    4: Field("name", Kind.BINARY, is_required=True),
    5: Field("num_children", Kind.I32),
    6: Field("converted_type", Kind.I32),
    7: Field("scale", Kind.I32),
    8: Field("precision", Kind.I32),
    9: Field("field_id", Kind.I32),
    10: Field("logical_type", Kind.STRUCT, _LOGICAL_TYPE),
}

STATISTICS: Struct = {
    1: Field("max", Kind.BINARY),
    2: Field("min", Kind.BINARY),
    3: Field("null_count", Kind.I64),
    4: Field("distinct_count", Kind.I64),
    5: Field("max_value", Kind.BINARY),
    6: Field("min_value", Kind.BINARY),
    7: Field("is_max_value_exact", Kind.TRUE),
    8: Field("is_min_value_exact", Kind.TRUE),
    9: Field("nan_count", Kind.I64),
}

_SIZE_STATISTICS: Struct = {
    1: Field("unencoded_byte_array_data_bytes", Kind.I64),
    2: Field("repetition_level_histogram", Kind.LIST, element=Kind.I64),
    3: Field("definition_level_histogram", Kind.LIST, element=Kind.I64),
}

_KEY_VALUE: Struct = {1: Field("key", Kind.BINARY, is_required=True), 2: Field("value", Kind.BINARY)}

_PAGE_ENCODING_STATS: Struct = {
    1: Field("page_type", Kind.I32, is_required=True),
    2: Field("encoding", Kind.I32, is_required=True),
    3: Field("count", Kind.I32, is_required=True),
}

_COLUMN_META_DATA: Struct = {
    1: Field("type", Kind.I32, is_required=True),
    2: Field("encodings", Kind.LIST, element=Kind.I32, is_required=True),
    3: Field("path_in_schema", Kind.LIST, element=Kind.BINARY, is_required=True),
    4: Field("codec", Kind.I32, is_required=True),
    5: Field("num_values", Kind.I64, is_required=True),
    6: Field("total_uncompressed_size", Kind.I64, is_required=True),
    7: Field("total_compressed_size", Kind.I64, is_required=True),
    9: Field("data_page_offset", Kind.I64, is_required=True),
    11: Field("dictionary_page_offset", Kind.I64),
    12: Field("statistics", Kind.STRUCT, STATISTICS),
    13: Field("encoding_stats", Kind.LIST, _PAGE_ENCODING_STATS),
    16: Field("size_statistics", Kind.STRUCT, _SIZE_STATISTICS),
}

_COLUMN_CHUNK: Struct = {
    2: Field("file_offset", Kind.I64, is_required=True),
    3: Field("meta_data", Kind.STRUCT, _COLUMN_META_DATA, is_required=True),
}

_ROW_GROUP: Struct = {
    1: Field("columns", Kind.LIST, _COLUMN_CHUNK, is_required=True),
    2: Field("total_byte_size", Kind.I64, is_required=True),
    3: Field("num_rows", Kind.I64, is_required=True),
    5: Field("file_offset", Kind.I64),
    6: Field("total_compressed_size", Kind.I64),
    7: Field("ordinal", Kind.I16),
}

_COLUMN_ORDER: Struct = {1: Field("type_order", Kind.STRUCT, _EMPTY, is_required=True)}

FILE_META_DATA: Struct = {
    1: Field("version", Kind.I32, is_required=True),
    2: Field("schema", Kind.LIST, _SCHEMA_ELEMENT, is_required=True),
    3: Field("num_rows", Kind.I64, is_required=True),
    4: Field("row_groups", Kind.LIST, _ROW_GROUP, is_required=True),
    5: Field("key_value_metadata", Kind.LIST, _KEY_VALUE),
    6: Field("created_by", Kind.BINARY),
    7: Field("column_orders", Kind.LIST, _COLUMN_ORDER),
}

_DATA_PAGE_HEADER: Struct = {
    1: Field("num_values", Kind.I32, is_required=True),
    2: Field("encoding", Kind.I32, is_required=True),
    3: Field("definition_level_encoding", Kind.I32, is_required=True),
    4: Field("repetition_level_encoding", Kind.I32, is_required=True),
    5: Field("statistics", Kind.STRUCT, STATISTICS),
}

_DICTIONARY_PAGE_HEADER: Struct = {
    1: Field("num_values", Kind.I32, is_required=True),
    2: Field("encoding", Kind.I32, is_required=True),
    3: Field("is_sorted", Kind.TRUE),
}

PAGE_HEADER: Struct = {
    1: Field("type", Kind.I32, is_required=True),
    2: Field("uncompressed_page_size", Kind.I32, is_required=True),
    3: Field("compressed_page_size", Kind.I32, is_required=True),
    4: Field("crc", Kind.I32),
    5: Field("data_page_header", Kind.STRUCT, _DATA_PAGE_HEADER),
    7: Field("dictionary_page_header", Kind.STRUCT, _DICTIONARY_PAGE_HEADER),
}
