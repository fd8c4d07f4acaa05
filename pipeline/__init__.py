"""Rows in, rows out: how tagged shards become masks.

    input shards                                     shards.py, vocabulary.py, storage.py (the one door to bytes),
                                                     stored_objects.py, atomic_files.py (local disks)
      -> plan: which chunks remain                   run.py (what this run is), resume.py
      -> read tasks: one row a chunk                 chunk_source.py, tar_reader.py, parquet_reader.py
      -> labelling actors                            label_actor.py, labeler.py
           decode -> frames                          decode.py, views.py
           model -> class maps, joined over views    class_mapper.py (models/ does the mathematics)
           class maps -> masks and statistics        masks.py, stats.py
           what kills or stalls an actor             attempts.py, watchdog.py, isolation.py
           commit: one atomic put a chunk            commit.py
      -> driver: counts, has finished shards sealed  label.py (the assembly), engine.py (Ray), ledger.py, heartbeat.py
      -> seal tasks: one atomic put a shard          seal.py
      -> labels/<shard>.parquet: the manifest        records.py (its columns)
      -> rejected rows, labelled again               retry.py
      -> new masks of kept maps                      kept_maps.py, kept_images.py (where pixels refine them),
                                                     row_maps.py, remask.py, pixel_maps.py (shared with labelling)
      -> thresholds for kept maps                    map_samples.py, threshold_fit.py, threshold_choice.py,
                                                     calibration.py
      -> figures and pictures                        evaluation.py, report.py
      -> audit, by code that nothing above uses      verify.py, run_audit.py (run.json), shard_audit.py, verdict.py
           manifests byte by byte                    parquet_layout.py, parquet_structs.py, thrift_compact.py,
                                                     manifest_format.py, footer_audit.py, column_audit.py
           rows and masks                            row_audit.py, mask_audit.py
           beside the samples of their inputs        input_audit.py, member_walk.py, image_audit.py, key_comparison.py

Training reads the same shards through the same decoding: training_data.py, training.py.
"""
