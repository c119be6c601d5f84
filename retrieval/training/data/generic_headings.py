"""Headings that any document may have: as queries they would ask for every document at once."""

from __future__ import annotations

from retrieval.training.near_duplicates import normalised

_NAMES = """
abstract; about; about this document; acknowledgements; acknowledgments; additional resources;
api; api reference; appendix; arguments; authors; background; basic usage; bibliography;
changelog; change log; conclusion; conclusions; configuration; contact; contents; contributing;
copyright; credits; data; definitions; description; details; discussion; documentation; download;
example; examples; external links; faq; features; footnotes; frequently asked questions;
further information; further reading; general; getting started; glossary; help; history; home;
how it works; important; index; installation; installing; introduction; license; licence;
limitations; links; materials and methods; method; methods; miscellaneous; more information;
next steps; notes; note; options; other; overview; parameters; preface; prerequisites; purpose;
quick start; quickstart; readme; references; related work; release notes; requirements;
resources; results; return value; returns; scope; see also; setup; sources; summary; support;
table of contents; terms; terminology; tips; to do; troubleshooting; tutorial; untitled; usage;
using; warning; what is new; what's new; 引言; 介绍; 简介; 概述; 概览; 前言; 序言; 背景;
背景介绍; 目录; 内容; 摘要; 总结; 小结; 结论; 结语; 讨论; 方法; 结果; 参考文献; 参考资料; 参考;
附录; 附注; 注释; 备注; 注意; 注意事项; 说明; 使用说明; 示例; 例子; 举例; 安装; 配置; 用法;
使用方法; 常见问题; 更多信息; 相关链接; 外部链接; 延伸阅读; 参见; 另见; 致谢; 版权; 许可证;
更新日志; 快速开始; 快速入门; 术语; 定义; 其他; はじめに; 序論; 概要; 目次; まとめ; 結論;
参考文献; 例; 注意; 使い方; インストール; 付録; 関連項目; 脚注; 外部リンク; einleitung;
einführung; überblick; übersicht; inhalt; inhaltsverzeichnis; zusammenfassung; fazit; beispiel;
beispiele; anhang; literatur; literaturverzeichnis; hinweis; hinweise; siehe auch;
voraussetzungen; verwendung; allgemeines; vorwort; quellen; weblinks; einzelnachweise; résumé;
aperçu; sommaire; table des matières; exemple; exemples; annexe; annexes; références; voir aussi;
remarque; remarques; utilisation; généralités; liens externes; introducción; resumen; índice;
contenido; conclusión; ejemplo; ejemplos; anexo; referencias; véase también; notas; uso;
enlaces externos; bibliografía
"""
"""English, Chinese, Japanese, German, French and Spanish."""

GENERIC_HEADINGS = frozenset(map(normalised, _NAMES.split(";")))
